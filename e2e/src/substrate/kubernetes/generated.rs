//! The kustomization of one test's mesh: the shipped overlay with a namespace, images, replicas and files of its own.
//!
//! It lies in `deploy/generated/`, which git ignores, because kustomize takes no folder outside of its own tree by an absolute path.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::{self, SERVICES};
use crate::mesh::Setup;

/// Marks the namespaces of tests, so that one that was left behind is found.
pub const LABEL: &str = "petmesh.dev/e2e";

/// The services that are Deployments.
pub const DEPLOYMENTS: [&str; 4] = ["sds", "pet", "petstore", "ingress"];

/// Taken away with this value.
pub struct Generated(pub PathBuf);

impl Generated {
    /// Writes it.
    pub fn write(namespace: &str, setup: &Setup) -> Self {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let folder = deploy.join("generated").join(namespace);
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let own = Self(folder);
        let images = images(&images_folder().join("list"));
        std::fs::write(own.0.join("kustomization.yaml"), text(namespace, setup, &images))
            .expect("it is written");
        for service in SERVICES.iter().filter(|_| setup.edit.is_some()) {
            let path = own.0.join(format!("{service}.yaml"));
            std::fs::write(path, config::text(service, setup.edit)).expect("the configuration is written");
        }
        own
    }
}

impl Drop for Generated {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where `make images` has put them.
pub fn images_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("PETMESH_IMAGES") {
        return folder.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())).join("images")
}

/// Name and tag of each image.
fn images(list: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(list).unwrap_or_else(|error| {
        let place = list.display();
        panic!(
            "{place}: {error}: build the images with `make images`, or name their folder in PETMESH_IMAGES"
        )
    });
    let pair = |line: &str| line.split_once(':').map(|(name, tag)| (name.to_owned(), tag.to_owned()));
    text.lines().filter_map(pair).collect()
}

fn text(namespace: &str, setup: &Setup, images: &[(String, String)]) -> String {
    let label = format!("/metadata/labels/{}", LABEL.replace('/', "~1"));
    let label = json!([{"op": "add", "path": label, "value": "true"}]);
    let quota = json!({"$patch": "delete", "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "petmesh"}});
    let mut text = format!(
        "# Written by the end-to-end tests; removed when the test ends.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {namespace}
resources: [../../overlays/generic]
patches:
# Scaling to ten needs more than the mesh's own quota allows.
- {{ target: {{ kind: ResourceQuota }}, patch: '{quota}' }}
- {{ target: {{ kind: Namespace }}, patch: '{label}' }}
"
    );
    if let Some(delay) = setup.pet_delay {
        let path = "/spec/template/spec/containers/0/env/-";
        let patch = json!([{"op": "add", "path": path, "value": {"name": "PET_DELAY", "value": delay}}]);
        let _ = writeln!(text, "- {{ target: {{ kind: Deployment, name: pet }}, patch: '{patch}' }}");
    }
    text.push_str("images:\n");
    for (name, tag) in images {
        let _ = writeln!(text, "- {{ name: {name}, newTag: \"{tag}\" }}");
    }
    text.push_str("replicas:\n");
    for service in DEPLOYMENTS {
        let _ = writeln!(text, "- {{ name: {service}, count: {} }}", setup.replicas(service));
    }
    if setup.edit.is_some() {
        text.push_str("configMapGenerator:\n");
        for service in SERVICES {
            let _ = writeln!(
                text,
                "- {{ name: envoy-{service}, namespace: petmesh, behavior: replace, files: [envoy.yaml={service}.yaml] }}"
            );
        }
    }
    text
}
