//! A proxy with all that its file allows, connections, requests, buffers and the kernel's buffers, takes
//! at most 80 % of the memory of its container (`deploy/README.md`, "Memory of a proxy"). The
//! segments that the kernel adds to full send buffers fit into the container as well.

use serde_json::Value;
use tidy::{Findings, Tree};

use super::rendered::{Rendered, Workload, all, list, mebibytes};

/// Where the costs stand, and what they mean.
const COSTS: &str = "proxy/src/memory.rs";

/// What the rule may use, in per cent of the container's memory.
const SHARE: u64 = 80;

/// `SO_SNDBUF` and `SO_RCVBUF`, as `socket_options` name them.
const BUFFERS: [u64; 2] = [7, 8];

/// The bytes of each thing; buffers are in the file.
struct Costs {
    base: u64,
    idle_connection: u64,
    request: u64,
    waiting_request: u64,
    segment: u64,
    /// The least window of an HTTP/2 stream.
    window: u64,
}

impl Costs {
    fn read(tree: &Tree) -> Result<Self, Findings> {
        let text = tree.text(COSTS)?;
        let cost = |name: &str| {
            let start = format!("pub const {name}: u64 = ");
            let line = text.lines().find_map(|line| line.strip_prefix(&*start)?.strip_suffix(';'));
            let shifted = line.and_then(|line| {
                let (number, bits) = line.split_once(" << ")?;
                Some(number.parse::<u64>().ok()? << bits.parse::<u32>().ok()?)
            });
            shifted.ok_or_else(|| Findings::one(format!("{COSTS}: no `pub const {name}: u64 = N << BITS;`")))
        };
        Ok(Self {
            base: cost("BASE")?,
            idle_connection: cost("IDLE_CONNECTION")?,
            request: cost("REQUEST")?,
            waiting_request: cost("WAITING_REQUEST")?,
            segment: cost("SEGMENT")?,
            window: cost("LEAST_WINDOW")?,
        })
    }
}

#[test]
fn all_that_a_file_allows_fits_into_the_memory_of_its_container() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let costs = Costs::read(&tree)?;
    let mut findings = Findings::default();
    let mut proxies = 0;
    for file in all(&tree)?.iter().filter(|file| file.is_mesh()) {
        for workload in file.workloads() {
            for (container, text) in proxies_of(file, &workload) {
                proxies += 1;
                let place = workload.of(container);
                let config: Value = serde_saphyr::from_str(text)
                    .map_err(|error| Findings::one(format!("{place}: {error}")))?;
                let memory = mebibytes(&container["resources"]["limits"]["memory"]).unwrap_or(0) << 20;
                let limit = memory / 100 * SHARE;
                match Use::of(&config, &costs) {
                    Ok(most) if most.total() <= limit && most.unread() <= memory => {}
                    Ok(most) => findings.add(format!(
                        "{place}: {most:?} are {} KiB, {SHARE} % of the container's memory are {} KiB; \
                         {} KiB with full send buffers: lower a limit in the file",
                        most.total() >> 10,
                        limit >> 10,
                        most.unread() >> 10
                    )),
                    Err(text) => findings.add(format!("{place}: {text}")),
                }
            }
        }
    }
    if proxies == 0 {
        findings.add("no container mounts an envoy.yaml: this test checks nothing".to_owned());
    }
    findings.none_or()
}

/// The containers that read an Envoy file, and the file.
fn proxies_of<'a>(file: &'a Rendered, workload: &Workload<'a>) -> Vec<(&'a Value, &'a str)> {
    let volumes = || list(&workload.pod["volumes"]);
    let config = |volume: &Value| {
        let map = &volume["configMap"]["name"];
        let found = file.of_kind("ConfigMap").find(|object| object["metadata"]["name"] == *map)?;
        found["data"]["envoy.yaml"].as_str()
    };
    let mounted = |container: &'a Value| {
        let names = list(&container["volumeMounts"]).map(|mount| &mount["name"]);
        let volume = names.filter_map(|name| volumes().find(|volume| volume["name"] == *name));
        volume.filter_map(config).next().map(|text| (container, text))
    };
    workload.containers().into_iter().filter_map(mounted).collect()
}

/// The bytes that everything takes at most.
#[derive(Debug)]
#[allow(dead_code)] // shown by `Debug`
struct Use {
    connections: u64,
    requests: u64,
    waiting: u64,
    base_bytes: u64,
    connection_bytes: u64,
    request_bytes: u64,
    waiting_bytes: u64,
    segment_bytes: u64,
}

impl Use {
    fn of(config: &Value, costs: &Costs) -> Result<Self, String> {
        let resources = &config["static_resources"];
        let listeners = || list(&resources["listeners"]);
        let mut buffer = costs.window;
        let mut received = 0;
        for listener in listeners() {
            let name = &listener["name"];
            let of_kernel = kernel_buffer(&listener["socket_options"]);
            received = received.max(of_kernel.ok_or_else(|| format!("{name}: no `socket_options`"))?);
            let limit = listener["per_connection_buffer_limit_bytes"].as_u64();
            buffer = buffer.max(limit.ok_or_else(|| format!("{name}: no limit of buffers"))?);
            let headers = max_headers(listener);
            if headers > buffer {
                return Err(format!("{name}: headers of {headers} bytes, a buffer of {buffer}"));
            }
        }
        let upstream = &config["cluster_manager"]["upstream_bind_config"]["socket_options"];
        let sent = kernel_buffer(upstream).ok_or("no `upstream_bind_config` with `socket_options`")?;
        let connections = max_connections(config)?;
        let (mut requests, mut waiting) = (0, 0);
        for cluster in list(&resources["clusters"]) {
            let name = &cluster["name"];
            let threshold = &cluster["circuit_breakers"]["thresholds"][0];
            let limit =
                |field: &str| threshold[field].as_u64().ok_or_else(|| format!("cluster {name}: no {field}"));
            requests += match threshold["max_requests"].as_u64() {
                Some(most) => most,
                // Over HTTP/1 a connection carries one request.
                None if is_http1(cluster) => limit("max_connections")?,
                None => return Err(format!("cluster {name}: no max_requests")),
            };
            waiting += limit("max_pending_requests")?;
            let limit = cluster["per_connection_buffer_limit_bytes"].as_u64();
            buffer = buffer.max(limit.ok_or_else(|| format!("cluster {name}: no limit of buffers"))?);
        }
        Ok(Self {
            connections,
            requests,
            waiting,
            base_bytes: costs.base,
            connection_bytes: connections * (costs.idle_connection + received),
            request_bytes: requests * (costs.request + buffer + sent),
            waiting_bytes: waiting * (costs.waiting_request + buffer),
            segment_bytes: requests * costs.segment,
        })
    }

    fn total(&self) -> u64 {
        self.base_bytes + self.connection_bytes + self.request_bytes + self.waiting_bytes
    }

    /// No host reads what it is sent.
    fn unread(&self) -> u64 {
        self.total() + self.segment_bytes
    }
}

fn is_http1(cluster: &Value) -> bool {
    ["http2_protocol_options", "protocol_selection", "typed_extension_protocol_options"]
        .iter()
        .all(|field| cluster[field].is_null())
}

/// The larger one of a socket's buffers in the kernel, which doubles what it is asked for; `None` where
/// not both are set.
fn kernel_buffer(options: &Value) -> Option<u64> {
    let size = |name: u64| {
        let option = list(options).find(|option| option["level"] == 1 && option["name"] == name)?;
        Some(option["int_value"].as_u64()? * 2)
    };
    let [sent, received] = BUFFERS.map(size);
    Some(sent?.max(received?))
}

/// The bytes of the headers of one request.
fn max_headers(listener: &Value) -> u64 {
    let filters = list(&listener["filter_chains"]).flat_map(|chain| list(&chain["filters"]));
    let kilobytes = filters.map(|filter| filter["typed_config"]["max_request_headers_kb"].as_u64());
    kilobytes.map(|kilobytes| kilobytes.unwrap_or(60) << 10).max().unwrap_or(0)
}

/// Connections of clients: those of all listeners together, and those of listeners that ignore this
/// limit and therefore have one of their own.
fn max_connections(config: &Value) -> Result<u64, String> {
    let manager = &config["overload_manager"];
    let of_all = list(&manager["resource_monitors"])
        .find_map(|monitor| monitor["typed_config"]["max_active_downstream_connections"].as_u64())
        .ok_or("no limit of connections: add envoy.resource_monitors.global_downstream_max_connections")?;
    let monitors: Vec<&str> =
        list(&manager["resource_monitors"]).filter_map(|monitor| monitor["name"].as_str()).collect();
    if !monitors.contains(&"envoy.resource_monitors.cgroup_memory") {
        return Err("nothing watches the memory: add envoy.resource_monitors.cgroup_memory".to_owned());
    }
    let mut connections = of_all;
    let ignoring = list(&config["static_resources"]["listeners"])
        .filter(|listener| listener["ignore_global_conn_limit"] == true);
    for listener in ignoring {
        let name = listener["name"].as_str().unwrap_or_default();
        let key = format!("envoy.resource_limits.listener.{name}.connection_limit");
        let limit = list(&config["layered_runtime"]["layers"])
            .find_map(|layer| layer["static_layer"][&*key].as_u64())
            .ok_or_else(|| format!("listener {name} ignores the limit of connections: set {key}"))?;
        connections += limit;
    }
    Ok(connections)
}
