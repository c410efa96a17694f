//! The `raft-kv` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    raft_kv::cli::main()
}
