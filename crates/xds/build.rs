//! Compiles `proto/` into Rust types and into the descriptors that the reader walks; no protoc needed.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    proto_files(Path::new("proto"), &mut files)?;
    files.sort();

    // Encoded by the compiler itself, because our options do not survive a trip through prost's types.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(&files)?;
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    // With comments: for the documentation of the types, and for the page of supported fields.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    fs::write(out.join("documented.bin"), compiler.encode_file_descriptor_set())?;

    prost_build::Config::new()
        .btree_map(["."]) // equal messages have equal bytes
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .include_file("api.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

fn proto_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path.strip_prefix("proto")?.to_owned());
        }
    }
    Ok(())
}
