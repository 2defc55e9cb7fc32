//! A k3s of the test's own, in a container, with our images in it; then it is a cluster like any other.
//!
//! Needs Docker, the image of k3s (and, through it, those that k3s itself pulls).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use testcontainers_modules::k3s::{K3s, KUBE_SECURE_PORT};
use testcontainers_modules::testcontainers::core::{ContainerPort, IntoContainerPort};
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ImageExt};

use super::generated::images_folder;

/// The newest that was known when this was written; `E2E_K3S_TAG` names another. At least 1.30: `preStop.sleep`.
const TAG: &str = "v1.35.0-k3s1";

/// The NodePort of the ingress, which must be published when the container starts.
pub const NODE_PORT: u16 = 30080;

/// Start and import of the images together.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running cluster; it ends with this value.
pub struct Cluster {
    pub kubeconfig: PathBuf,
    pub ingress: SocketAddr,
    _folder: TempDir,
    _container: ContainerAsync<K3s>,
}

/// Starts one.
pub async fn start() -> Cluster {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tag = std::env::var("E2E_K3S_TAG").unwrap_or_else(|_| TAG.to_owned());
    let mut image = K3s::default()
        .with_conf_mount(folder.path())
        .with_tag(&tag)
        .with_privileged(true)
        .with_userns_mode("host")
        // These replace the module's own words: nothing is needed beside what the mesh uses.
        .with_cmd(["server", "--snapshotter=native", "--disable=traefik", "--disable=metrics-server"])
        // Each at a free port of this machine: what is not named here is not published.
        .with_mapped_port(0, KUBE_SECURE_PORT)
        .with_mapped_port(0, NODE_PORT.tcp())
        .with_startup_timeout(PATIENCE);
    for tar in ["pet", "petstore", "proxy", "ingress", "sds"].map(|name| format!("{name}.tar")) {
        let path = images_folder().join(&tar);
        assert!(path.is_file(), "{}: build the images with `make images`", path.display());
        image = image.with_copy_to(format!("/var/lib/rancher/k3s/agent/images/{tar}"), path);
    }
    let container = image.start().await.unwrap_or_else(|error| {
        panic!(
            "E2E_TARGET=k3s: rancher/k3s:{tag} does not start: {error}\nIt needs Docker and that image: `docker pull \
             rancher/k3s:{tag}`, or another tag in E2E_K3S_TAG; with a cluster of your own use E2E_TARGET=kubernetes"
        )
    });
    let api = port(&container, KUBE_SECURE_PORT).await;
    let ingress = port(&container, NODE_PORT.tcp()).await;
    let kubeconfig = write_kubeconfig(folder.path(), &container, api);
    Cluster { kubeconfig, ingress: ([127, 0, 0, 1], ingress).into(), _folder: folder, _container: container }
}

async fn port(container: &ContainerAsync<K3s>, port: ContainerPort) -> u16 {
    container
        .get_host_port_ipv4(port)
        .await
        .unwrap_or_else(|error| panic!("k3s publishes no {port}: {error}"))
}

/// The kubeconfig that k3s wrote, with the port under which it is reached from here.
fn write_kubeconfig(folder: &Path, container: &ContainerAsync<K3s>, port: u16) -> PathBuf {
    let text = container.image().read_kube_config().expect("k3s has written its kubeconfig");
    let path = folder.join("kubeconfig");
    std::fs::write(&path, text.replace("https://127.0.0.1:6443", &format!("https://127.0.0.1:{port}")))
        .expect("the kubeconfig is written");
    path
}
