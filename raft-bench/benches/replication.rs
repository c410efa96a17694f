//! Replication throughput and latency over transports and log stores: see `raft_bench::matrix`.

fn main() -> std::process::ExitCode {
    raft_bench::matrix::run(&raft_bench::backend::Backends::ours())
}
