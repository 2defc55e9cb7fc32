//! A machine to run the script on: a server, a kubeconfig, a PATH of chosen programs, image archives.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kube_api::{Anonymous, Config, Server, Store, Token};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The programs that the script needs, besides kubectl and curl; everything else of this machine is out of its sight.
const TOOLS: &[&str] = &[
    "awk", "bash", "basename", "cat", "chmod", "cut", "date", "dirname", "env", "grep", "head", "hostname",
    "id", "ip", "ls", "mkdir", "mktemp", "mv", "ps", "rm", "rmdir", "sed", "sleep", "sort", "tail", "tar",
    "tr", "wc",
];

pub const NAMES: &[&str] = &["pet", "petstore", "proxy", "ingress", "sds"];
pub const TAG: &str = "0123456789ab";
pub const NODE: &str = "node-1";

/// What a run of the script left.
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Asserts the contract of a refusal: exit code 1 and one line on stderr with what is wrong and the remedy.
    #[track_caller]
    pub fn is_refused(&self, problem: &str, remedy: &str) {
        let all = format!("{}\n--- stderr\n{}", self.out, self.err);
        assert_eq!(self.code, 1, "{all}");
        let lines: Vec<_> = self.err.lines().filter(|line| !line.starts_with("note: ")).collect();
        assert_eq!(lines.len(), 1, "one line is wanted:\n{all}");
        let (what, how) = lines[0].split_once("; ").unwrap_or_else(|| panic!("no remedy:\n{all}"));
        assert!(what.starts_with("error: ") && what.contains(problem), "{problem:?} is not in: {what}");
        assert!(how.contains(remedy), "{remedy:?} is not in: {how}");
    }

    #[track_caller]
    pub fn is_fine(&self) {
        assert_eq!(self.code, 0, "{}\n--- stderr\n{}", self.out, self.err);
    }
}

/// A server and a folder with all that the script sees of a machine.
pub struct World {
    pub server: Server,
    pub folder: TempDir,
    /// The kubeconfig's context.
    pub context: String,
    /// The environment of the script, by `set`.
    variables: Vec<(String, String)>,
}

impl World {
    /// None where kubectl is missing: there is no test then.
    pub fn new(context: &str) -> Option<Self> {
        Self::with(context, Config::default())
    }

    pub fn with(context: &str, config: Config) -> Option<Self> {
        if find("kubectl").is_none() {
            println!("skipped: kubectl is not installed");
            return None;
        }
        let config = Config {
            tokens: if config.tokens.is_empty() {
                vec![Token::admin("secret")]
            } else {
                config.tokens.clone()
            },
            anonymous: Anonymous::Forbidden,
            plain: None,
            ..config
        };
        let server = Server::start(config).unwrap();
        let world = Self {
            server,
            folder: tempfile::tempdir().unwrap(),
            context: context.to_owned(),
            variables: Vec::new(),
        };
        fs::create_dir(world.path("bin")).unwrap();
        fs::create_dir(world.path("images")).unwrap();
        for tool in TOOLS {
            if let Some(found) = find(tool) {
                symlink(found, world.path("bin").join(tool)).unwrap();
            }
        }
        world.real_kubectl();
        world.write_kubeconfig("secret");
        world.tool("curl", r#"printf '{"name":"Amiguitos Mascotas","pets":[]}'"#);
        world.tool("build.sh", "");
        for socket in ["docker.sock", "kubelet.sock"] {
            drop(UnixListener::bind(world.path(socket)).unwrap());
        }
        world.archives("amd64");
        Some(world)
    }

    pub fn store(&self) -> Store {
        self.server.store()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program on the PATH that writes what it was called with to `calls`, then runs these lines.
    pub fn tool(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        let _ = fs::remove_file(&path);
        let calls = self.path("calls");
        let text =
            format!("#!/usr/bin/env bash\nprintf '%s\\n' \"{name} $*\" >>'{}'\n{script}\n", calls.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A tool that loads archives: the node reports all images once it was called with this word.
    pub fn loader(&self, name: &str, loads: &str, script: &str) {
        let images = json!({"status": {"images": reported(NAMES)}});
        let patch = format!(
            "case \"$*\" in *{loads}*) {} patch node {NODE} --subresource=status --type=merge -p '{images}' >&2;; esac",
            self.real("kubectl")
        );
        self.tool(name, &format!("{script}\n{patch}"));
    }

    // kubectl may itself be a script that needs more of this machine's programs, as pip installs it.
    fn real_kubectl(&self) {
        let (path, found) = (std::env::var("PATH").unwrap(), find("kubectl").unwrap());
        let text = format!("#!/bin/sh\nPATH='{path}' exec '{}' \"$@\"\n", found.display());
        fs::write(self.real("kubectl"), text).unwrap();
        fs::set_permissions(self.real("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(self.real("kubectl"), self.path("bin").join("kubectl")).unwrap();
    }

    /// Where a containerd of this machine listens, as far as the script can see: `docker` or `kubelet`.
    pub fn socket(&self, whose: &str) -> String {
        self.path(&format!("{whose}.sock")).display().to_string()
    }

    /// The machine's own program of that name, behind whatever is on the PATH.
    pub fn real(&self, name: &str) -> String {
        self.path(&format!("real-{name}")).display().to_string()
    }

    pub fn without_tool(&self, name: &str) {
        fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    /// How a fake tool was called.
    pub fn calls(&self, tool: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter_map(|line| line.strip_prefix(&format!("{tool} "))).map(str::to_owned).collect()
    }

    /// Sets a variable for the script.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn write_kubeconfig(&self, token: &str) {
        let text = self.server.kubeconfig(token).replace("kube-api", &self.context);
        fs::write(self.path("kubeconfig"), text).unwrap();
    }

    /// Archives as `make images` writes them, as far as the script looks at them, and their list.
    pub fn archives(&self, architecture: &str) {
        let mut list = String::new();
        for name in NAMES {
            let folder = self.path("archive");
            fs::create_dir_all(&folder).unwrap();
            let tags = json!([{"Config": "config.json", "RepoTags": [format!("petmesh/{name}:{TAG}")], "Layers": []}]);
            fs::write(folder.join("manifest.json"), tags.to_string()).unwrap();
            fs::write(
                folder.join("config.json"),
                json!({"architecture": architecture, "os": "linux"}).to_string(),
            )
            .unwrap();
            let archive = self.path("images").join(format!("{name}.tar"));
            let made = Command::new("tar")
                .arg("-cf")
                .arg(archive)
                .arg("-C")
                .arg(&folder)
                .args(["manifest.json", "config.json"])
                .status();
            assert!(made.unwrap().success());
            writeln!(list, "petmesh/{name}:{TAG}").unwrap();
        }
        fs::write(self.path("images").join("list"), list).unwrap();
    }

    /// A ready amd64 node of a generic cluster, with changes.
    pub fn node(&self, changes: impl FnOnce(&mut Value)) {
        let mut node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/arch": "amd64"}},
            "spec": {},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
                "conditions": [{"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}],
                "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.36.0"},
                "images": [],
            },
        });
        changes(&mut node);
        self.store().apply(node).unwrap();
    }

    /// A node that reports all images.
    pub fn loaded_node(&self) {
        self.node(|node| node["status"]["images"] = reported(NAMES));
    }

    /// Runs the script as its users do. Only what this world has set reaches it.
    pub fn run(&self, args: &[&str]) -> Outcome {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command
            .arg(root().join("deploy/mesh.sh"))
            .args(args)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("PETMESH_IMAGES", self.path("images"))
            .env("PETMESH_GENERATED", self.path("generated"))
            .env("PETMESH_BUILD", self.path("bin/build.sh"))
            .env(
                "PETMESH_SOCKETS",
                format!("/absent.sock {} {}", self.socket("docker"), self.socket("kubelet")),
            )
            .env("TIMEOUT", "20")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the script and asserts that it was refused with this line and that the API stores what it stored before.
    #[track_caller]
    pub fn refuses(&self, args: &[&str], problem: &str, remedy: &str) {
        let before = self.store().resource_version();
        self.run(args).is_refused(problem, remedy);
        assert_eq!(self.store().resource_version(), before, "something was stored");
    }
}

/// Images as a node's status reports them.
pub fn reported(names: &[&str]) -> Value {
    let image =
        |name: &&str| json!({"names": [format!("docker.io/petmesh/{name}:{TAG}")], "sizeBytes": 9_000_000});
    names.iter().map(image).collect()
}

/// Runs a test where it may block, while the server runs in the test's runtime.
pub async fn blocking(test: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(test).await.unwrap();
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.is_file())
}
