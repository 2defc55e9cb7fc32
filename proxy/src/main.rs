//! The sidecar binary.

use proxy::snapshot::build::Flavor;

fn main() -> std::process::ExitCode {
    proxy::app::main(Flavor::Sidecar)
}
