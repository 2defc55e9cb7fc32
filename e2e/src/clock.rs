//! A wall clock that a test can move, for programs that are linked dynamically: a small library
//! that they load before all others (`clock.c`). Their monotonic clocks stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the programs of a mesh load.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Builds the library in a folder that outlives the mesh. Nothing is moved yet.
    #[must_use]
    pub fn build(folder: &Path) -> Self {
        let clock = Self { library: folder.join("clock.so"), offset: folder.join("offset") };
        clock.set(0);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clock.c");
        let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&clock.library).arg(source);
        let output = command.output().expect("a C compiler: install gcc and libc6-dev, or name it in CC");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        clock
    }

    /// Moves the wall clock of every program that has loaded it: this many seconds from the true time.
    pub fn set(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.offset);
        // In place: the programs have mapped the file.
        file.and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0)).expect("the offset is written");
    }

    /// The environment of the programs.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("PETMESH_CLOCK", &self.offset)]
    }
}
