//! The Dockerfile makes the images that `deploy/images/build.sh` makes, and the archives are what
//! they promise.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tidy::{Findings, Tree};

const DOCKERFILE: &str = "deploy/images/Dockerfile";
const BUILD: &str = "deploy/images/build.sh";
const ASSEMBLE: &str = "deploy/images/assemble.sh";

/// One `FROM` and what follows it, as (instruction, arguments).
struct Stage {
    base: String,
    name: String,
    lines: Vec<(String, String)>,
}

#[test]
fn the_dockerfile_makes_the_images_that_cargo_makes() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let stages = stages(&tree.text(DOCKERFILE)?);
    let images: Vec<&Stage> = stages.iter().filter(|stage| stage.base == "scratch").collect();
    let names: Vec<&str> = images.iter().map(|stage| stage.name.as_str()).collect();
    let programs = programs(&tree)?;
    same(&mut findings, "its stages FROM scratch", &json!(names), &json!(programs));
    for stage in images {
        let config = &assembled(&tree, &stage.name)?["config"];
        let name = &stage.name;
        let found = json!({
            "User": stage.only("USER"),
            "WorkingDir": stage.only("WORKDIR"),
            "Entrypoint": serde_json::from_str::<Value>(stage.only("ENTRYPOINT")).unwrap_or_default(),
            "Labels": stage.labels(),
        });
        same(&mut findings, &format!("the configuration of {name}"), &found, config);
        let copied = format!("--from=build /out/{name} /{name}");
        same(&mut findings, &format!("what {name} copies"), &json!(stage.only("COPY")), &json!(copied));
        same(
            &mut findings,
            &format!("how many instructions {name} has"),
            &json!(stage.lines.len()),
            &json!(5),
        );
    }
    findings.none_or()
}

#[test]
fn the_dockerfile_builds_as_cargo_builds() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let (script, manifest) = (tree.text(BUILD)?, tree.text("Cargo.toml")?);
    let all = stages(&tree.text(DOCKERFILE)?);
    let build = all.first().ok_or_else(|| Findings::one(format!("{DOCKERFILE}: it has no FROM")))?;

    let tag = build.base.strip_prefix("rust:").unwrap_or_default();
    let version = tag.split('-').next().unwrap_or_default();
    let minimum = after(&manifest, "rust-version = \"", '"');
    if minimum.is_empty() || !version.starts_with(&format!("{minimum}.")) {
        findings.add(format!(
            "{DOCKERFILE}: it builds with {}, Cargo.toml asks for Rust {minimum}: write rust:{minimum}.N",
            build.base
        ));
    }
    let toolchain = tree.text("rust-toolchain.toml")?;
    let pinned = after(&toolchain, "channel = \"", '"');
    same(&mut findings, "the channel in rust-toolchain.toml", &json!(pinned), &json!(version));
    let settings = build.only("ENV");
    same(
        &mut findings,
        "RUSTUP_TOOLCHAIN",
        &json!(after(settings, "RUSTUP_TOOLCHAIN=", ' ')),
        &json!(version),
    );
    let flags = json!(after(&script, "RUSTFLAGS='", '\''));
    same(&mut findings, "RUSTFLAGS", &json!(after(settings, "RUSTFLAGS=\"", '"')), &flags);

    let command = build.only("RUN");
    let packages: String = programs(&tree)?.iter().map(|name| format!(" -p {name}")).collect();
    let wanted = ["cargo build --locked --release --target \"$triple\"", packages.trim()];
    for words in wanted.into_iter().filter(|words| !command.contains(words)) {
        findings.add(format!("{DOCKERFILE}: its RUN lacks `{words}`, with which {BUILD} builds: add it"));
    }
    let incremental = "CARGO_INCREMENTAL=0";
    if !script.contains(incremental) || !settings.contains(incremental) {
        findings.add(format!("{DOCKERFILE}, {BUILD}: both need {incremental}, or their programs differ"));
    }
    findings.none_or()
}

/// What every linter of Dockerfiles asks first, for machines where none is installed; `.ci/dockerfile` runs a real one.
#[test]
fn the_dockerfile_keeps_to_good_manners() -> Result<(), Findings> {
    const KNOWN: [&str; 8] = ["COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "RUN", "USER", "WORKDIR"];
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for stage in stages(&tree.text(DOCKERFILE)?) {
        let Stage { base, name, lines } = &stage;
        if base != "scratch" && (!base.contains(':') || base.ends_with(":latest")) {
            findings.add(format!("{DOCKERFILE}: {base} moves: name a version"));
        }
        if name.is_empty() {
            findings.add(format!("{DOCKERFILE}: the stage from {base} has no name: add `AS name`"));
        }
        for (instruction, words) in lines {
            if !KNOWN.contains(&instruction.as_str()) {
                findings.add(format!("{DOCKERFILE}: {instruction} is not used here (COPY instead of ADD, ENTRYPOINT instead of CMD)"));
            }
            if instruction == "WORKDIR" && !words.starts_with('/') {
                findings.add(format!("{DOCKERFILE}: WORKDIR {words}: write an absolute path"));
            }
            if instruction == "RUN"
                && ["sudo ", "curl ", "wget ", "apt-get "].iter().any(|tool| words.contains(tool))
            {
                findings.add(format!("{DOCKERFILE}: nothing but cargo's dependencies is fetched: {words}"));
            }
        }
        if base == "scratch" && ["USER", "ENTRYPOINT"].iter().any(|word| stage.only(word).is_empty()) {
            findings.add(format!("{DOCKERFILE}: {name} needs one USER and one ENTRYPOINT"));
        }
    }
    findings.none_or()
}

/// cargo reads the manifest of every member, even of those that it does not build.
#[test]
fn docker_is_sent_every_member_of_the_workspace() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let ignored = tree.text(".dockerignore")?;
    let sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix("!/")).collect();
    let mut findings = Findings::default();
    let manifests = tree.files.iter().filter(|file| file.ends_with("Cargo.toml") || *file == "Cargo.lock");
    for file in manifests {
        let first = file.split('/').next().unwrap_or_default();
        if !sent.contains(&first) {
            findings.add(format!(".dockerignore: {file} is not sent: add `!/{first}`"));
        }
    }
    findings.none_or()
}

#[test]
fn the_same_program_gives_the_same_archive_and_the_tag_is_the_images_id() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut archives = Vec::new();
    for copy in ["first", "second"] {
        let archive = scratch(copy)?.join("pet.tar");
        let program = elf(copy, 62, None)?;
        let (code, said) = assemble(&tree, &[], "pet", &program, &archive)?;
        if code != Some(0) {
            return Err(Findings::one(said));
        }
        archives.push((said, std::fs::read(&archive).map_err(|error| broken(&error))?));
    }
    let mut findings = Findings::default();
    if archives[0] != archives[1] {
        findings.add(format!(
            "{ASSEMBLE}: two archives of one program differ: something of the machine is in them"
        ));
    }
    let files = unpack(&archives[0].1);
    let configuration = files.iter().find(|(name, _)| name.ends_with(".json") && name != "manifest.json");
    let digest = configuration.map_or("", |(name, _)| name.as_str());
    same(
        &mut findings,
        "the tag",
        &json!(archives[0].0.trim()),
        &json!(format!("petmesh/pet:{}", &digest[..12])),
    );
    let layer = files.iter().find(|(name, _)| name.ends_with(".tar")).map(|(_, bytes)| unpack(bytes));
    let inside: Vec<String> = layer.into_iter().flatten().map(|(name, _)| name).collect();
    same(&mut findings, "the layer", &json!(inside), &json!(["pet"]));
    findings.none_or()
}

#[test]
fn a_program_that_cannot_start_in_an_empty_image_is_refused() -> Result<(), Findings> {
    const INTERPRETER: u8 = 3;
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let cases = [
        ("dynamic", elf("dynamic", 62, Some(INTERPRETER))?, "", "is not static"),
        ("riscv", elf("riscv", 243, None)?, "", "for a processor"),
        ("large", elf("large", 183, None)?, "100", "100 is the most"),
        ("script", tree.root.join(ASSEMBLE), "", "is not a 64-bit Linux program"),
        ("absent", scratch("absent")?.join("none"), "", "build it first"),
    ];
    for (case, program, most, expected) in cases {
        let archive = scratch(case)?.join("proxy.tar");
        let limit: &[(&str, &str)] = if most.is_empty() { &[] } else { &[("MAX_BYTES", most)] };
        let (code, said) = assemble(&tree, limit, "proxy", &program, &archive)?;
        if code != Some(1) || !said.contains(expected) || said.lines().count() != 1 || archive.exists() {
            findings.add(format!(
                "{ASSEMBLE}: {case}: expected one line with `{expected}` and code 1, found {code:?}: {said}"
            ));
        }
    }
    findings.none_or()
}

impl Stage {
    /// The arguments of an instruction that stands there once, else nothing.
    fn only(&self, instruction: &str) -> &str {
        let mut found = self.lines.iter().filter(|(name, _)| name == instruction);
        match (found.next(), found.next()) {
            (Some((_, words)), None) => words,
            _ => "",
        }
    }

    fn labels(&self) -> Value {
        let pairs = self.only("LABEL").split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), json!(value.trim_matches('"')))).collect()
    }
}

fn stages(text: &str) -> Vec<Stage> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut stages: Vec<Stage> = Vec::new();
    for line in code.join("\n").replace("\\\n", " ").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["FROM", base, "AS", name] => {
                stages.push(Stage { base: (*base).into(), name: (*name).into(), lines: Vec::new() });
            }
            ["FROM", rest @ ..] => {
                stages.push(Stage { base: rest.join(" "), name: String::new(), lines: Vec::new() });
            }
            [instruction, rest @ ..] => {
                let line = ((*instruction).to_owned(), rest.join(" "));
                if let Some(stage) = stages.last_mut() {
                    stage.lines.push(line);
                }
            }
        }
    }
    stages
}

/// The images that the script knows: `all=(pet …)`.
fn programs(tree: &Tree) -> Result<Vec<String>, Findings> {
    let names: Vec<String> =
        after(&tree.text(BUILD)?, "\nall=(", ')').split(' ').map(str::to_owned).collect();
    if names.len() > 1 { Ok(names) } else { Err(Findings::one(format!("{BUILD}: where is `all=(…)`?"))) }
}

/// What stands between a mark and a character.
fn after<'a>(text: &'a str, mark: &str, end: char) -> &'a str {
    text.split_once(mark).map_or("", |(_, rest)| rest.split(end).next().unwrap_or_default())
}

fn same(findings: &mut Findings, what: &str, found: &Value, expected: &Value) {
    if found != expected {
        findings.add(format!(
            "{DOCKERFILE}: {what} should be {expected} as in {BUILD} or {ASSEMBLE}, is {found}"
        ));
    }
}

/// The image's configuration, as the script writes it.
fn assembled(tree: &Tree, name: &str) -> Result<Value, Findings> {
    let (program, archive) = (elf(name, 62, None)?, scratch(name)?.join("image.tar"));
    let (_, said) = assemble(tree, &[], name, &program, &archive)?;
    let bytes = std::fs::read(&archive).map_err(|error| Findings::one(format!("{error}: {said}")))?;
    let files = unpack(&bytes);
    let configuration = files.iter().find(|(name, _)| name.ends_with(".json") && name != "manifest.json");
    let read = configuration.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok());
    read.ok_or_else(|| Findings::one(format!("{ASSEMBLE}: its archive has no configuration that is JSON")))
}

fn assemble(
    tree: &Tree,
    environment: &[(&str, &str)],
    name: &str,
    program: &PathBuf,
    archive: &PathBuf,
) -> Result<(Option<i32>, String), Findings> {
    let mut command = Command::new("bash");
    command.arg(tree.root.join(ASSEMBLE)).arg(name).arg(program).arg(archive);
    command.env_remove("MAX_BYTES").envs(environment.iter().copied());
    let output = command.output().map_err(|error| broken(&error))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// The head of a 64-bit program for a processor, with one program header of a kind or with none: all that the script reads of one.
fn elf(folder: &str, processor: u8, header: Option<u8>) -> Result<PathBuf, Findings> {
    let mut bytes = vec![0; 256];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = processor;
    (bytes[32], bytes[54], bytes[56]) = (64, 56, u8::from(header.is_some()));
    bytes[64] = header.unwrap_or_default();
    let program = scratch(folder)?.join("program");
    std::fs::write(&program, bytes).map_err(|error| broken(&error))?;
    Ok(program)
}

/// The files of a tar.
fn unpack(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut files = Vec::new();
    while bytes.len() >= 512 && bytes[0] != 0 {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&bytes[range]).trim_end_matches('\0').to_owned()
        };
        let size = usize::from_str_radix(&text(124..135), 8).unwrap_or_default();
        files.push((text(0..100), &bytes[512..512 + size]));
        bytes = &bytes[512 + size.next_multiple_of(512)..];
    }
    files
}

/// A folder for one case of the test that runs.
fn scratch(case: &str) -> Result<PathBuf, Findings> {
    let test = std::thread::current().name().unwrap_or_default().replace("::", "-");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test).join(case);
    std::fs::create_dir_all(&folder).map_err(|error| broken(&error))?;
    Ok(folder)
}

fn broken(error: &std::io::Error) -> Findings {
    Findings::one(error.to_string())
}
