//! The parts alone: see `raft_bench::parts`.

fn main() -> std::process::ExitCode {
    raft_bench::parts::run(&raft_bench::backend::Backends::ours())
}
