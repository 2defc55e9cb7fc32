//! The images: ours, loaded from the files of `make images`, and the one of the pods' own container. Nothing is pulled.
//!
//! Called when a mesh starts; calls the engine, and `rustc` for the pod's container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::{StreamExt, stream};
use testcontainers_modules::testcontainers::GenericBuildableImage;
use testcontainers_modules::testcontainers::bollard::Docker;
use testcontainers_modules::testcontainers::bollard::query_parameters as query;
use testcontainers_modules::testcontainers::runners::AsyncBuilder;

use super::engine::give_up;

/// The images of the mesh.
pub const NAMES: [&str; 5] = ["pet", "petstore", "proxy", "ingress", "sds"];

/// The image of the container that owns a pod's network.
pub const SANDBOX: &str = "petmesh-e2e/pod-sandbox";

/// Name to `petmesh/name:tag`, all of them known to the engine.
pub async fn load(docker: &Docker) -> BTreeMap<String, String> {
    let folder = folder();
    let list = folder.join("list");
    let remedy = "build the images first with `make images` (PETMESH_IMAGES names another folder)";
    let text = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| give_up(&format!("no images to run: {}: {error}; {remedy}", list.display())));
    let mut images = BTreeMap::new();
    for name in NAMES {
        let prefix = format!("petmesh/{name}:");
        let Some(image) = text.lines().map(str::trim).find(|line| line.starts_with(&prefix)) else {
            give_up(&format!("{} lists no image {prefix}…; {remedy}", list.display()));
        };
        if docker.inspect_image(image).await.is_err() {
            load_one(docker, &folder.join(format!("{name}.tar"))).await;
        }
        if let Err(error) = docker.inspect_image(image).await {
            give_up(&format!("{name}.tar in {} does not hold {image}: {error}; {remedy}", folder.display()));
        }
        images.insert(name.to_owned(), image.to_owned());
    }
    images
}

/// A relative path is meant as cargo and make mean it: from the root of the tree, while tests run in their crate's folder.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let images = || {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        target.join("images")
    };
    root.join(std::env::var_os("PETMESH_IMAGES").map_or_else(images, PathBuf::from))
}

async fn load_one(docker: &Docker, tar: &Path) {
    let bytes = match std::fs::read(tar) {
        Ok(bytes) => bytes,
        Err(error) => give_up(&format!("cannot read {}: {error}; run `make images`", tar.display())),
    };
    let body = stream::iter([Ok::<_, std::io::Error>(bytes.into())]);
    let mut progress = Box::pin(docker.import_image_stream(query::ImportImageOptions::default(), body, None));
    while let Some(said) = progress.next().await {
        if let Err(error) = said {
            give_up(&format!("Docker cannot load {}: {error}; run `make images` again", tar.display()));
        }
    }
}

/// Builds the image of the pods' own container, once for each content of its source; tells its tag.
pub async fn sandbox(docker: &Docker) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/pod-sandbox.rs");
    let text = std::fs::read(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    // FNV-1a: enough to tell one version of a small file from another.
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let tag = format!("{hash:016x}");
    if docker.inspect_image(&format!("{SANDBOX}:{tag}")).await.is_ok() {
        return tag;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("pod-sandbox");
    // Not cargo: a second set of flags would build every dependency of these tests once more.
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => give_up(&format!(
            "rustc cannot build {} as a static program: {}; on Debian it needs libc6-dev",
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => give_up(&format!("cannot run rustc: {error}; the tests build a small program with it")),
    }
    let image = GenericBuildableImage::new(SANDBOX, &tag)
        .with_dockerfile_string(
            "FROM scratch\nCOPY pod-sandbox /pod-sandbox\nUSER 65532:65532\nENTRYPOINT [\"/pod-sandbox\"]\n",
        )
        .with_file(&program, "pod-sandbox");
    if let Err(error) = image.build_image().await {
        give_up(&format!("Docker cannot build the image {SANDBOX}: {error}"));
    }
    tag
}
