//! Nodes with a network interface each: network namespaces of Linux, joined by a bridge. What the relay does in silence, the system
//! does with an error here: an interface that is down, a peer that there is no way to.
//!
//! They need no rights on the machine: [`enter`] runs a test anew as the root of a user namespace of its own.

use std::net::SocketAddr;
use std::process::Command;

/// Set where a test runs in namespaces already.
const INSIDE: &str = "RAFT_KV_IN_NAMESPACES";

/// Proves that all that is needed is there.
const PROBE: &str = "mount -t tmpfs tmpfs /run && ip link add br0 type bridge && ip netns add probe \
                     && ip link add v0 type veth peer name eth0 netns probe";

/// Whether the caller is inside by now. Where not, runs the test of this name inside, if the machine allows it, and says
/// where it does not.
pub(crate) fn enter(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount"]);
        command
    };
    match unshare().args(["sh", "-c", PROBE]).output() {
        Ok(probe) if probe.status.success() => {}
        Ok(probe) => {
            println!("no network namespaces here: {}", String::from_utf8_lossy(&probe.stderr));
            return false;
        }
        Err(error) => {
            println!("no network namespaces here: {error}");
            return false;
        }
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(command.status().unwrap().success(), "{test} in namespaces");
    false
}

/// The namespaces `node-1` to `node-<count>`. They end with the process.
pub(crate) struct Namespaces;

impl Namespaces {
    pub(crate) fn create(count: u64) -> Self {
        assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).status().unwrap().success());
        ip("link set lo up");
        ip("link add br0 type bridge");
        ip("address add 10.77.0.254/24 dev br0");
        ip("link set br0 up");
        for node in 1..=count {
            let name = name(node);
            ip(&format!("netns add {name}"));
            ip(&format!("link add to-{node} type veth peer name eth0 netns {name}"));
            ip(&format!("link set to-{node} master br0 up"));
            ip(&format!("-n {name} address add 10.77.0.{node}/24 dev eth0"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        Self
    }

    pub(crate) fn address(&self, node: u64, port: u16) -> SocketAddr {
        format!("10.77.0.{node}:{port}").parse().unwrap()
    }

    /// Takes a node's interface down, or up again.
    pub(crate) fn set_interface(&self, node: u64, up: bool) {
        ip(&format!("-n {} link set eth0 {}", name(node), if up { "up" } else { "down" }));
    }

    /// Takes the way between two nodes, or gives it back.
    pub(crate) fn set_way(&self, a: u64, b: u64, there: bool) {
        let verb = if there { "delete" } else { "add" };
        for (from, to) in [(a, b), (b, a)] {
            ip(&format!("-n {} route {verb} unreachable 10.77.0.{to}/32", name(from)));
        }
    }
}

pub(crate) fn name(node: u64) -> String {
    format!("node-{node}")
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}
