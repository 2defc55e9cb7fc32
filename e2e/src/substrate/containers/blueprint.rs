//! How the containers of a pod are made: image, limits, mounts, environment. The same as in deploy/, in the words of Docker.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use local_mesh::plan::{ADMIN, OUTBOUND, Service};
use testcontainers_modules::testcontainers::bollard::Docker;
use testcontainers_modules::testcontainers::bollard::query_parameters as query;
use testcontainers_modules::testcontainers::core::{AccessMode, Mount};
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

use crate::config;

use super::engine::{LABEL, Network};
use super::images::SANDBOX;

/// A port of a pod's own loopback is reached from outside at this much more.
pub const FORWARDED: u16 = 10_000;

/// User and group of every container, as in the images.
const USER: &str = "65532:65532";

const MIB: i64 = 1024 * 1024;

/// What every container of a mesh is made from.
#[derive(Clone)]
pub struct Blueprint {
    pub docker: Docker,
    pub run: String,
    pub network: Network,
    /// Tag of the image of the pods' own container.
    pub sandbox_tag: String,
    /// Program to image.
    pub images: Arc<Mutex<BTreeMap<String, String>>>,
    /// `config/<service>/envoy.yaml`, a copy of it for each pod, and `account/`.
    pub folder: PathBuf,
    pub kubernetes: SocketAddr,
    pub pet_delay: Option<&'static str>,
    pub fail_static: Option<&'static str>,
}

impl Blueprint {
    /// The container that owns a pod's network, at the pod's address and known by its service's name.
    pub async fn start_sandbox(&self, service: &Service, address: Ipv4Addr) -> ContainerAsync<GenericImage> {
        let forwards = [OUTBOUND, ADMIN].map(|port| format!("{}={port}", port + FORWARDED));
        let request = GenericImage::new(SANDBOX, &self.sandbox_tag).with_cmd(forwards);
        let request = self.hardened(request.with_network(&self.network.name), 8, None);
        let container = request.start().await;
        let container =
            container.unwrap_or_else(|error| panic!("a pod's own container does not start: {error}"));
        // testcontainers knows neither addresses nor names in a network: it is joined anew with both.
        self.network.part(&self.docker, container.id()).await.expect("it was in the network");
        let joined = self.network.join(&self.docker, container.id(), address, service.name).await;
        joined.unwrap_or_else(|error| panic!("no address {address} in {}: {error}", self.network.name));
        container
    }

    /// The app or the proxy of a pod.
    pub async fn start(
        &self,
        service: &Service,
        pod: &str,
        name: &str,
        sandbox: &str,
    ) -> ContainerAsync<GenericImage> {
        let program = if name == "app" { service.app } else { service.proxy }.unwrap_or(service.name);
        let image = self.images.lock().unwrap()[program].clone();
        let (repository, tag) = image.rsplit_once(':').expect("an image with a tag");
        let request = ContainerRequest::from(GenericImage::new(repository, tag));
        let request = match program {
            "pet" | "petstore" => self.app(request, program),
            "sds" => self.discovery(request),
            _ => {
                let drain = if program == "ingress" { "30" } else { "10" };
                read_only(request, &self.own_config(service, pod), "/etc/envoy")
                    .with_cmd(["--drain-time-s", drain])
            }
        };
        let started = self.hardened(request, config::memory_limit(program), Some(sandbox)).start().await;
        started
            .unwrap_or_else(|error| panic!("{name} of {} does not start from {image}: {error}", service.name))
    }

    /// The Envoy file of a pod, or the one of a service that new pods get.
    pub fn config(&self, owner: &str) -> PathBuf {
        self.folder.join("config").join(owner).join("envoy.yaml")
    }

    /// The folder of a pod with its copy of the service's Envoy file.
    fn own_config(&self, service: &Service, pod: &str) -> PathBuf {
        let folder = self.folder.join("config").join(pod);
        std::fs::create_dir_all(&folder).expect("a folder for the configuration");
        std::fs::copy(self.config(service.name), self.config(pod)).expect("the configuration is copied");
        folder
    }

    fn app(&self, request: ContainerRequest<GenericImage>, program: &str) -> ContainerRequest<GenericImage> {
        let request = request.with_env_var("LISTEN_ADDR", "127.0.0.1:8080");
        match (program, self.pet_delay) {
            ("petstore", _) => request.with_env_var("SIDECAR_URL", "http://127.0.0.1:9900"),
            (_, Some(delay)) => request.with_env_var("PET_DELAY", delay),
            _ => request,
        }
    }

    /// sds finds the API server as in a cluster: by variables and by the files of its service account.
    fn discovery(&self, request: ContainerRequest<GenericImage>) -> ContainerRequest<GenericImage> {
        let request = request
            .with_env_var("KUBERNETES_SERVICE_HOST", self.kubernetes.ip().to_string())
            .with_env_var("KUBERNETES_SERVICE_PORT", self.kubernetes.port().to_string());
        let request = match self.fail_static {
            Some(time) => request.with_env_var("FAIL_STATIC_TIME_S", time),
            None => request,
        };
        read_only(request, &self.folder.join("account"), "/var/run/secrets/kubernetes.io/serviceaccount")
    }

    /// What deploy/ says of every container: no root, no capabilities, nothing to write to, little memory.
    fn hardened(
        &self,
        request: ContainerRequest<GenericImage>,
        memory: i64,
        sandbox: Option<&str>,
    ) -> ContainerRequest<GenericImage> {
        let network = sandbox.map(|id| format!("container:{id}"));
        request
            .with_label(LABEL, &self.run)
            .with_user(USER)
            .with_readonly_rootfs(true)
            .with_cap_drop("ALL")
            .with_security_opt("no-new-privileges")
            .with_host_config_modifier(move |host| {
                host.memory = Some(memory * MIB);
                host.memory_swap = Some(memory * MIB);
                host.publish_all_ports = Some(false);
                if let Some(network) = &network {
                    host.network_mode = Some(network.clone());
                }
            })
    }

    /// Sends a signal; a container that has ended in the meantime is no failure of the test.
    pub async fn signal(&self, id: &str, signal: &str) {
        let options = query::KillContainerOptionsBuilder::new().signal(signal).build();
        let _ = self.docker.kill_container(id, Some(options)).await;
    }

    pub async fn runs(&self, id: &str) -> bool {
        let found = self.docker.inspect_container(id, None::<query::InspectContainerOptions>).await;
        found.is_ok_and(|found| found.state.and_then(|state| state.running).unwrap_or_default())
    }

    /// The process of a container; none if it does not run.
    pub async fn process(&self, id: &str) -> Option<u32> {
        let found = self.docker.inspect_container(id, None::<query::InspectContainerOptions>).await;
        let pid = found.ok()?.state?.pid?;
        u32::try_from(pid).ok().filter(|pid| *pid > 0)
    }

    /// What a container has written; its standard error too if wanted.
    pub async fn output(&self, id: &str, errors: bool) -> String {
        let options = query::LogsOptionsBuilder::new().stdout(true).stderr(errors).build();
        let mut lines = Box::pin(self.docker.logs(id, Some(options)));
        let mut text = String::new();
        while let Some(Ok(part)) = lines.next().await {
            text.push_str(&String::from_utf8_lossy(&part.into_bytes()));
        }
        text
    }
}

fn read_only(
    request: ContainerRequest<GenericImage>,
    from: &std::path::Path,
    to: &str,
) -> ContainerRequest<GenericImage> {
    let mount = Mount::bind_mount(from.display().to_string(), to);
    request.with_mount(mount.with_access_mode(AccessMode::ReadOnly))
}
