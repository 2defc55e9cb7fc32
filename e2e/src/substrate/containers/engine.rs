//! The Docker engine: the connection to it, the private network, what an aborted run left behind.
//!
//! Everything that the tests create carries one label; only what carries it is ever removed.

use std::collections::HashMap;
use std::io::Write;
use std::net::Ipv4Addr;

use testcontainers_modules::testcontainers::bollard::Docker;
use testcontainers_modules::testcontainers::bollard::errors::Error;
use testcontainers_modules::testcontainers::bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use testcontainers_modules::testcontainers::bollard::query_parameters as query;
use testcontainers_modules::testcontainers::core::client::docker_client_instance;

/// On every container and network of these tests; its value names the run.
pub const LABEL: &str = "petmesh.dev/e2e";

/// The tag that stands for a new build of an image.
pub const SECOND_TAG: &str = "e2e-second";

/// The tests were asked to use Docker and cannot: one line, and the end of the process. A panic would say it less clearly.
pub fn give_up(text: &str) -> ! {
    // Not `eprintln!`, which a test harness would keep back.
    let _ = writeln!(std::io::stderr(), "error: {text}");
    std::process::exit(1)
}

/// A client whose engine answers.
pub async fn connect() -> Docker {
    let remedy = "install it (Debian: apt-get install docker.io), start it (systemctl start docker, or dockerd &), and let \
                  this user open /var/run/docker.sock; DOCKER_HOST names another socket";
    let docker = match docker_client_instance().await {
        Ok(docker) => docker,
        Err(error) => give_up(&format!("Docker cannot be used: {error}; {remedy}")),
    };
    match docker.ping().await {
        Ok(_) => docker,
        Err(error) => give_up(&format!("Docker does not answer: {error}; {remedy}")),
    }
}

/// A network that leads nowhere: pods and this machine reach each other, and nobody else.
#[derive(Debug, Clone)]
pub struct Network {
    pub name: String,
    /// This machine as the pods see it.
    pub gateway: Ipv4Addr,
}

impl Network {
    /// Creates it. Docker chooses a free range first; then the same range is asked for by name, because only then may a pod be given
    /// an address. The engine's own choices come from the upper half, so that they never meet ours.
    pub async fn create(docker: &Docker, run: &str) -> Result<Self, Error> {
        let name = format!("petmesh-e2e-{run}");
        docker.create_network(request(&name, run, None)).await?;
        let found = docker.inspect_network(&name, None::<query::InspectNetworkOptions>).await?;
        let subnet = found
            .ipam
            .and_then(|ipam| ipam.config)
            .and_then(|configs| configs.into_iter().find_map(|config| config.subnet))
            .unwrap_or_default();
        let parsed =
            subnet.split_once('/').map(|(base, bits)| (base.parse::<Ipv4Addr>(), bits.parse::<u32>()));
        let Some((Ok(base), Ok(bits))) = parsed else {
            give_up(&format!(
                "Docker gave network {name} the range {subnet:?}, and not one such as 172.18.0.0/16"
            ));
        };
        docker.remove_network(&name).await?;
        let upper = Ipv4Addr::from_bits(base.to_bits() + (1 << (31 - bits)));
        let gateway = Ipv4Addr::from_bits(base.to_bits() + 1);
        let ipam = IpamConfig {
            subnet: Some(subnet),
            ip_range: Some(format!("{upper}/{}", bits + 1)),
            gateway: Some(gateway.to_string()),
            auxiliary_addresses: None,
        };
        docker.create_network(request(&name, run, Some(ipam))).await?;
        Ok(Self { name, gateway })
    }

    /// Joins a container at an address, under a name that the network's DNS knows.
    pub async fn join(
        &self,
        docker: &Docker,
        container: &str,
        address: Ipv4Addr,
        alias: &str,
    ) -> Result<(), Error> {
        let endpoint = EndpointSettings {
            aliases: Some(vec![alias.to_owned()]),
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint) };
        docker.connect_network(&self.name, request).await
    }

    /// Parts a container from it.
    pub async fn part(&self, docker: &Docker, container: &str) -> Result<(), Error> {
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        docker.disconnect_network(&self.name, request).await
    }
}

fn request(name: &str, run: &str, ipam: Option<IpamConfig>) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        internal: Some(true),
        labels: Some(HashMap::from([(LABEL.to_owned(), run.to_owned())])),
        ipam: ipam.map(|config| Ipam { config: Some(vec![config]), ..Ipam::default() }),
        ..NetworkCreateRequest::default()
    }
}

/// Removes every container and network with our label and every second tag; tells what is still there afterwards. The tests
/// take turns, so whoever calls this owns all of it, or a run that was killed did.
pub async fn reap(docker: &Docker) -> Vec<String> {
    let (containers, networks) = labelled(docker).await;
    let removals = containers.iter().map(|id| {
        let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        docker.remove_container(id, Some(options))
    });
    futures_util::future::join_all(removals).await;
    for network in &networks {
        let _ = docker.remove_network(network).await;
    }
    for name in super::images::NAMES {
        let image = format!("petmesh/{name}:{SECOND_TAG}");
        let _ = docker.remove_image(&image, None::<query::RemoveImageOptions>, None).await;
    }
    let (containers, networks) = labelled(docker).await;
    let mut left: Vec<_> = containers.into_iter().map(|id| format!("container {id}")).collect();
    for network in networks {
        // Docker loses count of endpoints when many containers end at once, and then keeps a network for ever in which
        // there is none. A new mesh has a network of its own.
        let options = None::<query::InspectNetworkOptions>;
        let found = docker.inspect_network(&network, options).await;
        if found.is_ok_and(|found| found.containers.is_some_and(|containers| !containers.is_empty())) {
            left.push(format!("network {network}"));
        } else {
            println!("Docker keeps the empty network {network}; it goes when the daemon starts again");
        }
    }
    left
}

async fn labelled(docker: &Docker) -> (Vec<String>, Vec<String>) {
    let filters = HashMap::from([("label", vec![LABEL])]);
    let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = docker.list_containers(Some(options)).await.unwrap_or_default();
    let options = query::ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = docker.list_networks(Some(options)).await.unwrap_or_default();
    (
        containers.into_iter().filter_map(|found| found.id).collect(),
        networks.into_iter().filter_map(|found| found.id).collect(),
    )
}
