//! The files that git tracks, and the list of what is wrong with them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout.
#[derive(Debug)]
pub struct Tree {
    pub root: PathBuf,
    /// Tracked files, relative to the root, with `/`; sorted.
    pub files: Vec<String>,
}

/// What a check found: one line each, with the file and the remedy.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Tree {
    /// Asks git for the tracked files.
    ///
    /// # Errors
    /// When git does not answer: the checks need a checkout, not an archive.
    pub fn read() -> Result<Self, Findings> {
        // As cargo says when it runs the test: a target directory that checkouts share may hold a test built in another one.
        let here = std::env::var("CARGO_MANIFEST_DIR");
        let root =
            PathBuf::from(here.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned())).join("../..");
        let answer = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output();
        let output = answer.map_err(|error| Findings::one(format!("git ls-files: {error}")))?;
        if !output.status.success() {
            return Err(Findings::one(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr))));
        }
        let names = String::from_utf8_lossy(&output.stdout);
        let mut files: Vec<String> = names.split_terminator('\0').map(str::to_owned).collect();
        files.sort_unstable();
        // One that was deleted and not committed yet is still listed.
        files.retain(|file| root.join(file).exists());
        Ok(Self { root, files })
    }

    /// Files below a folder (`proxy/src/`, or "" for all) with an extension.
    pub fn with_extension<'a>(
        &'a self,
        folder: &'a str,
        extension: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        let files = self.files.iter().map(String::as_str);
        files.filter(move |file| {
            file.starts_with(folder) && Path::new(file).extension().is_some_and(|found| found == extension)
        })
    }

    /// The folders directly below a folder that hold tracked files, sorted.
    #[must_use]
    pub fn folders_in(&self, folder: &str) -> Vec<String> {
        let below = self.files.iter().filter_map(|file| file.strip_prefix(folder)?.strip_prefix('/'));
        let mut folders: Vec<String> =
            below.filter_map(|rest| Some(format!("{folder}/{}", rest.split_once('/')?.0))).collect();
        folders.dedup();
        folders
    }

    /// The text of a file.
    ///
    /// # Errors
    /// When it cannot be read as UTF-8.
    pub fn text(&self, file: &str) -> Result<String, Findings> {
        std::fs::read_to_string(self.root.join(file))
            .map_err(|error| Findings::one(format!("{file}: {error}")))
    }

    /// Whether a path, relative to the root, exists (tracked or not).
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

impl Findings {
    #[must_use]
    pub fn one(line: String) -> Self {
        Self(vec![line])
    }

    pub fn add(&mut self, line: String) {
        self.0.push(line);
    }

    /// The verdict of a check.
    ///
    /// # Errors
    /// When there is a finding.
    pub fn none_or(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// A test that returns an error prints its `Debug`.
impl fmt::Debug for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} found", self.0.len())?;
        self.0.iter().try_for_each(|line| write!(out, "\n  {line}"))
    }
}
