//! Members of real clusters that come and go: under load, with the leader killed at each step of a change, with nodes that are down,
//! wiped, or started from an old copy of their folder. Nothing confirmed is lost, and whoever is not who it was is not counted.
//!
//! `RAFT_KV_MEMBERS=full` kills a leader that stays a member, too, and replaces nodes while there is a log of `RAFT_KV_MEMBERS_WRITES`
//! writes (300 each, if it does not say).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use raft_kv::api::{MembersBody, StatusBody, WaitBody};
use raft_kv::client::Client;
use support::load::Load;
use support::{Cluster, Node, eventually, exit_code, program, run, stderr, stdout};

/// Nodes whose disks may be put into trouble; the first of them have founded a cluster.
async fn start(count: u64, founders: usize) -> Cluster {
    let mut cluster = prepare(count);
    cluster.found_first(founders).await;
    cluster
}

fn prepare(count: u64) -> Cluster {
    let mut cluster = Cluster::prepare(count);
    cluster.nodes.iter_mut().for_each(Node::may_have_trouble);
    cluster
}

/// `raft-kv member ..` against all nodes.
fn member(cluster: &Cluster, args: &[&str]) -> Output {
    cluster.run(&[&["member"], args].concat())
}

/// That a change was carried out, and what the members are by then.
fn assert_done(output: &Output, members: &str) {
    assert_eq!(exit_code(output), 0, "{}", stderr(output));
    assert_eq!(stdout(output), format!("OK {members}"), "{}", stderr(output));
}

/// The members as a node knows them.
async fn view(node: &Node) -> Option<MembersBody> {
    node.child.as_ref()?;
    let client = Client::new(&[node.http.to_string()]).unwrap().with_timeout(Duration::from_secs(2));
    client.members(true).await.ok()
}

/// Waits until a node knows the members to be so.
async fn sees(node: &Node, what: &str, wanted: impl Fn(&MembersBody) -> bool) -> MembersBody {
    eventually(what, async || view(node).await.filter(&wanted)).await
}

/// Waits until a node's own status is so.
async fn is(node: &Node, what: &str, wanted: impl Fn(&StatusBody) -> bool) -> StatusBody {
    eventually(what, async || node.status().await.filter(&wanted)).await
}

/// Waits until one of these nodes logs this.
async fn logged(nodes: &[&Node], text: &str) {
    eventually(&format!("`{text}` is logged"), async || {
        nodes.iter().any(|node| node.log().contains(text)).then_some(())
    })
    .await;
}

fn put(cluster: &Cluster, key: &str) {
    let output = cluster.run(&["put", key, key, "--timeout", "60"]);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
}

fn role<'a>(members: &'a MembersBody, node: &Node) -> Option<&'a str> {
    members.member(node.id).map(|state| state.member.role.as_str())
}

/// Waits until these nodes have the same state.
async fn same_state(nodes: &[&Node]) {
    eventually("these nodes have the same state", async || {
        let mut states = Vec::new();
        for node in nodes {
            let status = node.status().await?;
            states.push((status.revision, status.state_hash));
        }
        states.iter().all(|state| *state == states[0]).then_some(())
    })
    .await;
}

/// A node's folder is lost.
fn wipe(node: &Node) {
    assert!(node.child.is_none(), "it must not run");
    fs::remove_dir_all(&node.data).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_are_replaced_one_by_one_under_load() {
    let writes = std::env::var("RAFT_KV_MEMBERS_WRITES").map_or(300, |text| text.parse().unwrap());
    let mut cluster = start(6, 3).await;
    let load = Load::start(&cluster.addresses());
    for old in 0..3 {
        load.goes_on(writes).await;
        let new = old + 3;
        cluster.nodes[new].start().await;
        let (leaves, comes) = (cluster.nodes[old].id.to_string(), cluster.nodes[new].as_member());
        let led = cluster.leader().await == old;
        let replaced = member(&cluster, &["replace", &leaves, &comes]);
        let left: Vec<String> = cluster.nodes[old + 1..=new].iter().map(|node| node.id.to_string()).collect();
        assert_done(&replaced, &format!("voters {}", left.join(" ")));
        println!(
            "node {leaves}{} replaced: {}",
            if led { ", which led," } else { "" },
            stderr(&replaced).replace('\n', " | ")
        );
        is(&cluster.nodes[old], "the old node knows that it was removed", is_removed).await;
        cluster.nodes[old].stop().await;
        load.goes_on(50).await;
    }
    let (confirmed, unknown) = load.end(&cluster.addresses()).await;
    println!("{confirmed} writes confirmed, {unknown} unknown, none failed");
    same_state(&[&cluster.nodes[3], &cluster.nodes[4], &cluster.nodes[5]]).await;
}

fn is_removed(status: &StatusBody) -> bool {
    status.dismissed.as_deref() == Some("removed")
}

/// Where in a change its leader dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The intent is in all logs and on no other disk.
    Intent,
    /// The new node does not hold the log.
    CatchUp,
    /// The joint configuration is in all logs and on no other disk.
    Joint,
    /// It is committed, and the one after it is not.
    JointCommitted,
    /// The new configuration is committed.
    Left,
}

/// Replaces a node, kills the leader at `step`, and sees that the change is carried out all the same.
async fn leader_killed(step: Step, leader_leaves: bool) {
    let mut cluster = start(4, 3).await;
    cluster.nodes[3].start().await;
    put(&cluster, "before");
    let leader = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let new = 3;
    let leaves = if leader_leaves { leader } else { others[0] };
    // Who is a voter before and after, and one who is that, too, if it is not the leader.
    let stays = others[1];
    let other = others[0];
    let stall = |cluster: &Cluster, places: &[usize]| {
        places.iter().for_each(|&place| cluster.nodes[place].trouble("stall"));
    };
    match step {
        Step::Intent => stall(&cluster, &others),
        Step::CatchUp | Step::Joint | Step::JointCommitted => stall(&cluster, &[new]),
        Step::Left => {}
    }
    let mut change = spawn_replace(&cluster, leaves, new);
    let nodes = &cluster.nodes;
    match step {
        Step::Intent => {
            let seen = sees(&nodes[leader], "the intent is appended", |seen| {
                seen.change.is_some() && !seen.committed
            });
            let index = seen.await.index;
            for place in others {
                sees(&nodes[place], "the others have it in memory", |seen| seen.index == index).await;
            }
        }
        Step::CatchUp => catches_up(&cluster, leader, new).await,
        Step::Joint | Step::JointCommitted => {
            catches_up(&cluster, leader, new).await;
            stall(&cluster, &others);
            nodes[new].trouble("");
            let joint = |seen: &MembersBody| seen.change.as_ref().is_some_and(|change| change.joint);
            let index = sees(&nodes[leader], "the joint configuration is appended", joint).await.index;
            for place in others {
                let seen =
                    sees(&nodes[place], "the others have it in memory", |seen| seen.index == index).await;
                assert!(!seen.committed, "no majority of the old voters can have it: {seen:?}");
            }
            if step == Step::JointCommitted {
                let id = nodes[new].id;
                sees(&nodes[leader], "the new node has confirmed it", |seen| {
                    seen.member(id).is_some_and(|state| state.holds >= Some(index))
                })
                .await;
                stall(&cluster, &[new]);
                // The joint configuration is on a majority of old and of new voters by that, what follows on one new voter only.
                nodes[if leader_leaves { stays } else { other }].trouble("");
                let left = sees(&nodes[leader], "it is left", |seen| seen.index > index).await;
                assert!(!left.committed && !joint(&left), "one of three new voters can have it: {left:?}");
                assert!(
                    is(&nodes[leader], "it is committed", |seen| seen.commit >= index).await.commit
                        < left.index
                );
            }
        }
        Step::Left => {
            let id = nodes[leaves].id;
            sees(&nodes[leader], "the new configuration is committed", |seen| {
                seen.committed && seen.member(id).is_none()
            })
            .await;
        }
    }
    cluster.nodes[leader].kill();
    cluster.nodes.iter().for_each(|node| node.trouble(""));
    let mut left: Vec<u64> = [other, stays, new, leader]
        .into_iter()
        .filter(|&place| place != leaves)
        .map(|place| cluster.nodes[place].id)
        .collect();
    left.sort_unstable();
    let ended = eventually("the change is carried out", async || change.try_wait().unwrap()).await;
    let output = change.wait_with_output().unwrap();
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    assert!(ended.success(), "{step:?}: {}", stderr(&output));
    assert_done(&output, &format!("voters {}", left.join(" ")));
    put(&cluster, "after");
    cluster.nodes[leader].start().await;
    if leader_leaves {
        is(&cluster.nodes[leader], "the old leader knows that it was removed", is_removed).await;
    } else {
        is(&cluster.nodes[leaves], "the replaced node knows that it was removed", is_removed).await;
    }
    let members: Vec<&Node> =
        cluster.nodes.iter().enumerate().filter(|(place, _)| *place != leaves).map(|(_, n)| n).collect();
    same_state(&members).await;
    assert_eq!(stdout(&cluster.run(&["get", "before", "--timeout", "60"])), "before");
    assert_eq!(stdout(&cluster.run(&["get", "after", "--timeout", "60"])), "after");
    println!("{step:?}: {}", stderr(&output).replace('\n', " | "));
}

fn spawn_replace(cluster: &Cluster, leaves: usize, new: usize) -> Child {
    let mut command = program();
    command.args([
        "member",
        "replace",
        &cluster.nodes[leaves].id.to_string(),
        &cluster.nodes[new].as_member(),
    ]);
    command.args(["--timeout", "60", "--nodes", &cluster.addresses().join(",")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn catches_up(cluster: &Cluster, leader: usize, new: usize) {
    let id = cluster.nodes[new].id;
    let waits = |seen: &MembersBody| {
        let for_it = |wait: &WaitBody| matches!(wait, WaitBody::CatchUp { node, .. } if *node == id);
        seen.change.as_ref().is_some_and(|change| change.waits.iter().any(for_it))
    };
    sees(&cluster.nodes[leader], "the change waits for the new node", waits).await;
}

async fn killed_at(step: Step) {
    leader_killed(step, true).await;
    if std::env::var("RAFT_KV_MEMBERS").as_deref() == Ok("full") {
        leader_killed(step, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_before_the_intent_is_committed() {
    killed_at(Step::Intent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_while_a_node_catches_up() {
    killed_at(Step::CatchUp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_with_the_joint_configuration_appended() {
    killed_at(Step::Joint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_with_the_joint_configuration_committed() {
    killed_at(Step::JointCommitted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_when_the_joint_configuration_is_left() {
    killed_at(Step::Left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promoted_and_demoted_while_down() {
    let mut cluster = start(4, 3).await;
    cluster.nodes[3].start().await;
    let learner = cluster.nodes[3].as_member();
    assert_done(&member(&cluster, &["add", "--learner", &learner]), "voters 1 2 3, learners 4");
    put(&cluster, "a");
    cluster.nodes[3].kill();
    let leader = cluster.leader().await;
    let down = (leader + 1) % 3;
    cluster.nodes[down].kill();
    let id = cluster.nodes[down].id.to_string();
    let voters: Vec<String> = (1..=3).map(|id: u64| id.to_string()).filter(|voter| *voter != id).collect();
    // A majority of the old voters and one of the new are up: nobody waits for the one that is not.
    let demoted = member(&cluster, &["demote", &id]);
    assert_done(&demoted, &format!("voters {}, learners {id} 4", voters.join(" ")));
    put(&cluster, "b");
    // It must hold the log before it votes.
    let promoted = member(&cluster, &["promote", "4", "--wait", "0.5"]);
    assert_eq!(exit_code(&promoted), 3, "{}", stderr(&promoted));
    assert!(stderr(&promoted).contains("waits for node 4, which does not answer"), "{}", stderr(&promoted));
    put(&cluster, "c");
    cluster.nodes[3].start().await;
    let done = |seen: &MembersBody| seen.committed && seen.change.is_none();
    let seen = sees(&cluster.nodes[3], "node 4 votes", |seen| {
        done(seen) && seen.member(4).is_some_and(|m| m.member.role == "voter")
    });
    seen.await;
    cluster.nodes[down].start().await;
    let status = is(&cluster.nodes[down], "it knows that it is a learner", |status| {
        status.members.iter().any(|member| member.id == status.node && member.role == "learner")
    });
    status.await;
    cluster.settled().await;
    let shown = cluster.run(&["status"]);
    let row = stdout(&shown).lines().find(|line| line.starts_with(&id)).unwrap().to_owned();
    assert!(row.contains("learner"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_voter_is_refused_then_readmitted() {
    let mut cluster = start(3, 3).await;
    put(&cluster, "a");
    let leader = cluster.leader().await;
    let wiped = (leader + 1) % 3;
    let id = cluster.nodes[wiped].id.to_string();
    let same = member(&cluster, &["readmit", &id]);
    assert_eq!(exit_code(&same), 1, "{}", stderr(&same));
    assert!(stderr(&same).contains("empty the folder"), "{}", stderr(&same));
    cluster.nodes[wiped].kill();
    wipe(&cluster.nodes[wiped]);
    let join = ["--join".to_owned(), cluster.nodes[leader].http.to_string()];
    cluster.nodes[wiped].more.extend(join);
    cluster.nodes[wiped].start().await;
    put(&cluster, "b");
    logged(&[&cluster.nodes[wiped]], &format!("raft-kv member readmit {id}")).await;
    logged(&[&cluster.nodes[leader]], "its folder was wiped or replaced").await;
    let status = cluster.nodes[wiped].status().await.unwrap();
    assert_eq!((status.commit, status.members.len()), (0, 0), "nobody counts it or tells it anything");
    let list = member(&cluster, &["list", "--json"]);
    let list: MembersBody = serde_json::from_slice(&list.stdout).unwrap();
    let state = list.member(cluster.nodes[wiped].id).unwrap();
    assert_eq!((state.answers, state.member.role.as_str()), (Some(false), "voter"), "{list:?}");
    assert_done(&member(&cluster, &["readmit", &id]), "voters 1 2 3");
    let status = cluster.settled().await.remove(wiped);
    assert!(status.members.iter().any(|m| m.id == status.node && m.incarnation == status.incarnation));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_folder_is_found_out() {
    // Only the leader that heard its promises misses them: where another came meanwhile, it is tried again.
    for _ in 0..5 {
        if old_copy_is_found_out().await {
            return;
        }
    }
    panic!("the leader changed each time");
}

/// `false` if the leader changed before it could miss anything.
async fn old_copy_is_found_out() -> bool {
    let mut cluster = start(3, 3).await;
    put(&cluster, "a");
    let leader = cluster.leader().await;
    let copied = (leader + 1) % 3;
    let id = cluster.nodes[copied].id;
    cluster.nodes[copied].stop().await;
    let old = cluster.folder.path().join("old");
    copy(&cluster.nodes[copied].data, &old);
    let term = is(&cluster.nodes[leader], "it leads", |status| status.role == "leader").await.term;
    // The folder was started once when it was copied, and is started twice more.
    for key in ["b", "c"] {
        cluster.nodes[copied].start().await;
        put(&cluster, key);
        cluster.settled().await;
        cluster.nodes[copied].kill();
    }
    wipe(&cluster.nodes[copied]);
    copy(&old, &cluster.nodes[copied].data);
    let all = |cluster: &Cluster, text: &'static str| {
        let logs: String = cluster.nodes.iter().map(Node::log).collect();
        logs.contains(text)
    };
    for text in ["old copy of its data folder", "copies of one data folder"] {
        cluster.nodes[copied].start().await;
        eventually(text, async || all(&cluster, text).then_some(())).await;
        put(&cluster, text);
        cluster.nodes[copied].kill();
    }
    // A copy that was started more often passes the door: the leader misses what the node has confirmed to it.
    cluster.nodes[copied].start().await;
    let suspended = |seen: &MembersBody| seen.member(id).is_some_and(|state| state.member.suspended);
    let found = eventually("it is suspended", async || {
        let leads = cluster.nodes[leader].status().await?;
        if leads.role != "leader" || leads.term != term {
            return Some(false);
        }
        view(&cluster.nodes[leader]).await.filter(suspended).map(|_| true)
    })
    .await;
    if !found {
        return false;
    }
    put(&cluster, "d");
    assert_eq!(stdout(&cluster.run(&["get", "c", "--timeout", "60"])), "c", "what it had confirmed is there");
    let list = stdout(&member(&cluster, &["list"]));
    assert!(list.contains("voter, suspended"), "{list}");
    cluster.nodes[copied].kill();
    wipe(&cluster.nodes[copied]);
    cluster.nodes[copied].start().await;
    assert_done(&member(&cluster, &["readmit", &id.to_string()]), "voters 1 2 3");
    cluster.settled().await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_copy_is_refused() {
    let mut cluster = start(3, 3).await;
    put(&cluster, "a");
    let place = (cluster.leader().await + 1) % 3;
    cluster.nodes[place].stop().await;
    let mut clone = Node {
        raft: support::free_address(),
        http: support::free_address(),
        data: cluster.folder.path().join("clone"),
        certs: cluster.nodes[place].certs.clone(),
        more: Vec::new(),
        child: None,
        network: None,
        ..cluster.nodes[place]
    };
    copy(&cluster.nodes[place].data, &clone.data);
    cluster.nodes[place].start().await;
    put(&cluster, "b");
    cluster.settled().await;
    clone.start().await;
    logged(&[&clone, &cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]], "copies of one data folder")
        .await;
    put(&cluster, "c");
    cluster.settled().await;
    assert!(clone.status().await.unwrap().leader.is_none(), "nobody tells it anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_start_joins_restarts_and_does_not_come_back() {
    let mut cluster = prepare(5);
    let address = cluster.nodes[0].http.to_string();
    for place in [3, 4] {
        cluster.nodes[place].more.extend(["--join".to_owned(), address.clone()]);
    }
    cluster.nodes[4].more.push("--learner".to_owned());
    // Before there is a cluster, and after.
    cluster.nodes[3].start().await;
    cluster.found_first(3).await;
    cluster.nodes[4].start().await;
    let joined = |seen: &MembersBody| {
        let role = |id: u64| seen.member(id).map(|state| state.member.role.clone()).unwrap_or_default();
        seen.committed && seen.change.is_none() && role(4) == "voter" && role(5) == "learner"
    };
    let before = sees(&cluster.nodes[4], "both are in", joined).await;
    put(&cluster, "a");
    cluster.nodes[3].kill();
    cluster.nodes[3].start().await;
    cluster.settled().await;
    let after = sees(&cluster.nodes[3], "it is in again", joined).await;
    assert_eq!(after.index, before.index, "nothing was changed for it");

    assert_done(&member(&cluster, &["remove", "4"]), "voters 1 2 3, learners 5");
    is(&cluster.nodes[3], "it knows that it was removed", is_removed).await;
    cluster.nodes[3].kill();
    cluster.nodes[3].start().await;
    is(&cluster.nodes[3], "it still knows", is_removed).await;
    let list = member(&cluster, &["list", "--json"]);
    let list: MembersBody = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(role(&list, &cluster.nodes[3]), None, "who was removed stays out");
    // With an empty folder it is a new node.
    cluster.nodes[3].kill();
    wipe(&cluster.nodes[3]);
    cluster.nodes[3].start().await;
    sees(&cluster.nodes[3], "it is in as a new node", joined).await;
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_moves_to_another_address() {
    let mut cluster = start(3, 3).await;
    put(&cluster, "a");
    let moves = cluster.leader().await;
    cluster.nodes[moves].stop().await;
    let node = &mut cluster.nodes[moves];
    (node.raft, node.http) = (support::free_address(), support::free_address());
    let there = node.as_member();
    assert_done(&member(&cluster, &["move", &there]), "voters 1 2 3");
    put(&cluster, "b");
    cluster.nodes[moves].start().await;
    cluster.settled().await;
    let id = cluster.nodes[moves].id.to_string();
    let led = cluster.run(&["transfer", "--to", &id]);
    assert_eq!(exit_code(&led), 0, "{}", stderr(&led));
    put(&cluster, "c");
    let status = cluster.nodes[moves].status().await.unwrap();
    let own = status.members.iter().find(|member| member.id == status.node).unwrap();
    assert_eq!(own.client_address, cluster.nodes[moves].http.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_given_up() {
    let cluster = start(4, 3).await;
    let nobody = cluster.nodes[3].as_member();
    let added = member(&cluster, &["add", &nobody, "--unchecked", "--no-wait"]);
    assert_eq!(exit_code(&added), 0, "{}", stderr(&added));
    let list = stdout(&member(&cluster, &["list"]));
    assert!(list.contains("learner -> voter"), "{list}");
    assert!(list.contains("change: waits for node 4 to say which data folder it has"), "{list}");
    assert!(stdout(&cluster.run(&["status"])).contains("the members are being changed"));
    put(&cluster, "a");
    assert_done(&member(&cluster, &["cancel"]), "voters 1 2 3");
    let again = member(&cluster, &["cancel"]);
    assert_eq!(
        (exit_code(&again), stderr(&again)),
        (1, "raft-kv: no change of the members is under way".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let mut cluster = start(5, 1).await;
    cluster.nodes[3].start().await;
    let mut other = Cluster::prepare(2);
    other.nodes[1].start().await;
    let [one, two, four, five] = [0, 1, 3, 4].map(|place: usize| &cluster.nodes[place]);
    let at = |id: u64, raft: &Node, http: &Node| format!("{id}={},{}", raft.raft, http.http);
    let known = member(&cluster, &["add", "--learner", &four.as_member()]);
    assert_done(&known, "voters 1, learners 4");
    let foreign = at(2, two, &other.nodes[1]);
    let (absent, wrong, taken) = (two.as_member(), at(5, five, four), at(5, one, five));
    let (moved, same) = (at(4, one, five), four.as_member());
    for (args, words) in [
        (&["remove", "9"][..], &["node 9 is no member", "1, 4"][..]),
        (&["promote", "9"], &["node 9 is no member"]),
        (&["demote", "9"], &["node 9 is no member"]),
        (&["readmit", "9"], &["node 9 is no member"]),
        (&["replace", "9", &absent], &["node 9 is no member"]),
        (&["move", &absent], &["node 2 is no member"]),
        (&["remove", "1"], &["node 1 is the last voter"]),
        (&["demote", "1"], &["node 1 is the last voter"]),
        (&["readmit", "1", "--unchecked"], &["no voter would be left"]),
        (&["remove", "4", "1"], &["node 1 is the last voter"]),
        (&["remove", "4", "4"], &["node 4 is no member"]),
        (&["add", &same], &["node 4 is a member already, as a learner"]),
        (&["replace", "1", &same], &["node 4 is a member already"]),
        (&["promote", "1"], &["node 1 votes already"]),
        (&["demote", "4"], &["node 4 is a learner already"]),
        (&["add", &absent], &["node 2 does not answer at", "--unchecked"]),
        (&["replace", "4", &absent], &["node 2 does not answer at"]),
        (&["add", &foreign], &["node 2", "is of cluster"]),
        (&["add", &wrong, "--unchecked"], &["is the address of node 4"]),
        (&["add", &taken, "--unchecked"], &["is the address of node 1"]),
        (&["move", &moved], &["is the address of node 1"]),
        (&["move", &same], &["node 4 is known at these addresses already"]),
        (&["readmit", "4"], &["node 4 has the data folder that the cluster knows it by"]),
        (&["cancel"], &["no change of the members is under way"]),
    ] {
        let output = member(&cluster, args);
        let line = stderr(&output);
        assert_eq!((exit_code(&output), stdout(&output).as_str()), (1, ""), "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
        for word in words {
            assert!(line.contains(word), "{args:?} must say `{word}`: {line}");
        }
    }
    // Who answers there is another node.
    let [five, four] = [4, 3].map(|place: usize| &cluster.nodes[place]);
    let stranger = format!("5={},{}", five.raft, other.nodes[1].http);
    let output = member(&cluster, &["add", &stranger]);
    assert!(stderr(&output).contains("answers node 2, not node 5"), "{}", stderr(&output));
    let none = member(&cluster, &["remove", "9", "--json"]);
    let none: serde_json::Value = serde_json::from_str(&stderr(&none)).unwrap();
    assert_eq!(none["error"], "not_found");
    let after = sees(four, "nothing has changed", |seen| seen.committed && seen.change.is_none()).await;
    assert_eq!(after.members.len(), 2);
    // Nobody there to ask.
    let nobody = run(&["member", "remove", "4", "--nodes", "127.0.0.1:1", "--timeout", "0.3"]);
    assert_eq!(exit_code(&nobody), 1);
    assert!(stderr(&nobody).contains("cannot reach"), "{}", stderr(&nobody));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_members_are_shown_and_not_changed() {
    let mut cluster = start(3, 3).await;
    put(&cluster, "a");
    for place in 0..2 {
        cluster.nodes[place].kill();
    }
    is(&cluster.nodes[2], "it knows no leader", |status| status.leader.is_none()).await;
    let list = member(&cluster, &["list", "--timeout", "2"]);
    assert_eq!(exit_code(&list), 0, "{}", stderr(&list));
    assert!(stdout(&list).contains("no leader answers: this is what node 3 knows"), "{}", stdout(&list));
    let removed = member(&cluster, &["remove", "1", "--timeout", "1"]);
    assert_eq!(exit_code(&removed), 1, "{}", stderr(&removed));
    // Nothing was begun: when the others are back, all are members.
    for place in 0..2 {
        cluster.nodes[place].start().await;
    }
    cluster.settled().await;
    let list = member(&cluster, &["list", "--json", "--timeout", "30"]);
    let list: MembersBody = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list.members.len(), 3);
}
