//! The sidecar binary. Calls `app`.

fn main() -> std::process::ExitCode {
    proxy::app::main()
}
