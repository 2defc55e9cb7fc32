//! The sidecar binary.

use proxy::build::Flavor;

fn main() -> std::process::ExitCode {
    proxy::app::main(Flavor::Sidecar)
}
