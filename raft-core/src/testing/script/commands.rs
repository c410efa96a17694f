//! The commands of scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::stage::{DiskMode, Link, Stage, Traffic, Transfer};
use crate::config::Config;
use crate::engine::{ProposeError, ReadError, SnapshotOutcome};
use crate::membership::{Lease, NodeInfo, Target};
use crate::message::{AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, TimeoutNow};
use crate::session::{Serial, SessionAction, SessionId, SessionLimits};
use crate::testing::cluster::Cluster;
use crate::testing::disk::{Image, entries_of_terms, founded_outline};
use crate::testing::display;
use crate::types::{Entry, EntryId, GroupId, HardState, Lineage, NodeId, Payload};

type Words<'a> = &'a [&'a str];

/// Carries out one line.
pub(super) fn run(line: &str, stage: &mut Stage) -> Result<(), String> {
    if stage.is_broken() {
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("quietly ") {
        return stage.quietly(|stage| run(rest, stage));
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((&name, words)) = words.split_first() else { return Ok(()) };
    match name {
        "cluster" => cluster(words, stage),
        "logs" => logs(words, stage),
        "bootstrap" => bootstrap(words, stage),
        "propose" => propose(words, stage),
        "read" => read(words, stage),
        "session" => session(words, stage),
        "hand_over" => hand_over(words, stage),
        "deliver" => deliver(words, stage),
        "drop" => take(words, stage).map(drop),
        "duplicate" => duplicate(words, stage),
        "reverse" => reverse(words, stage),
        "keep" => keep(words, stage),
        "replay" => replay(words, stage),
        "cut" => links(words, stage).map(|links| stage.cut.extend(links)),
        "heal" => heal(words, stage),
        "hold" => links(words, stage).map(|links| stage.held.extend(links)),
        "release" => release(words, stage),
        "snapshot" => snapshot(node(words, 0)?, stage),
        "taken" => taken(words, stage),
        "transfer" => transfer(words, stage),
        "offer" => offer(words, stage),
        "streams" => streams(words, stage),
        "disk" => disk(words, stage),
        "written" => written(words, stage),
        "crash" => crash(words, stage),
        "restart" => start(node(words, 0)?, stage),
        "wipe" => wipe(node(words, 0)?, stage),
        "older" => older(words, stage),
        "copy" => copy(words, stage),
        "put_back" => put_back(words, stage),
        "members" => members(words, stage),
        "lease" => lease(words, stage),
        "give_up" => give_up(node(words, 0)?, stage),
        "membership" => membership(words, stage),
        "recover" => recover(node(words, 0)?, stage),
        "restore" => restore(words, stage),
        "forge" => forge(words, stage),
        "tick" => tick(words, stage),
        "later" => later(words, stage),
        "heartbeats" => heartbeats(words, stage),
        "timeout" => {
            stage.timeout(node(words, 0)?)?;
            stage.pump(node(words, 0)?).map(drop)
        }
        "campaign" => stage.campaign(node(words, 0)?),
        "settle" => stage.settle(),
        "explain" => explain(words, stage),
        "status" => status(words, stage),
        "log" => log(words, stage),
        "network" => network(stage),
        "rounds" => rounds(words, stage),
        "states" => states(stage),
        _ => Err("no such command".to_owned()),
    }
}

/// `cluster 1 2 3 pre_vote=off max_append_bytes=100`: founded nodes, started. `blank` leaves the founding to `bootstrap`;
/// `learner=3` gives that node no vote, `priorities=0,5,9` each node its own.
fn cluster(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let mut config = Config::default();
    let mut size = 0_usize;
    let mut blank = false;
    let (mut priorities, mut learner) = (Vec::new(), None);
    for word in words {
        if let Some(list) = word.strip_prefix("priorities=") {
            let parsed: Result<_, _> = list.split(',').map(str::parse).collect();
            priorities = parsed.map_err(|_| "priorities are numbers from 0 to 255")?;
        } else if let Some(node) = word.strip_prefix("learner=") {
            learner = Some(parse_node(node)?);
        } else if let Some((setting, value)) = word.split_once('=') {
            configure(&mut config, setting, value)?;
        } else if *word == "blank" {
            blank = true;
        } else {
            size += 1;
            if word.parse() != Ok(size) {
                return Err("nodes are named 1, 2, 3 and so on".to_owned());
            }
        }
    }
    config.validate().map_err(|e| e.to_string())?;
    stage.reset();
    let mut cluster = match learner {
        Some(learner) => Cluster::with_learner(size, &config, learner),
        None if blank => Cluster::blank(size, &config),
        None => Cluster::founded(size, &config),
    };
    cluster.prioritize(&priorities);
    stage.cluster = Some(cluster);
    stage.quietly(|stage| stage.nodes().into_iter().try_for_each(|node| start(node, stage)))
}

fn configure(config: &mut Config, setting: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<usize>().map_err(|_| format!("{setting} takes a number"));
    let flag = || match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{setting} is on or off")),
    };
    match setting {
        "pre_vote" => config.pre_vote = flag()?,
        "check_quorum" => config.check_quorum = flag()?,
        "lease_clock_drift_ppm" => {
            let ppm = u32::try_from(number()?).map_err(|_| "parts of a million")?;
            config.lease_clock_drift_ppm = Some(ppm);
        }
        "max_append_bytes" => config.max_append_bytes = number()?,
        "max_inflight_messages" => config.max_inflight_messages = number()?,
        "max_inflight_bytes" => config.max_inflight_bytes = number()?,
        "max_uncommitted_bytes" => config.max_uncommitted_bytes = number()?,
        "max_entry_bytes" => config.max_entry_bytes = number()?,
        "max_tail_bytes" => config.max_tail_bytes = number()?,
        "max_write_bytes" => config.max_write_bytes = number()?,
        "snapshot_entries" => config.snapshot_entries = number()? as u64,
        "snapshot_bytes" => config.snapshot_bytes = number()?,
        "keep_entries" => config.keep_entries = number()? as u64,
        "keep_bytes" => config.keep_bytes = number()?,
        "keep_live_bytes" => config.keep_live_bytes = number()?,
        "max_apply_bytes" => config.max_apply_bytes = number()?,
        _ => return Err(format!("{setting} is no setting that scripts know")),
    }
    Ok(())
}

/// `logs 2: 1 1 4 4 term 6 vote 1 commit 2`: the terms of the entries on a node's disk, and its hard state; restarts it.
fn logs(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let (&id, mut rest) = words.split_first().ok_or("logs 2: 1 1 4")?;
    let id = parse_node(id.trim_end_matches(':'))?;
    let place = stage.place(id)?;
    let mut terms = Vec::new();
    while let Some((word, more)) = rest.split_first()
        && let Ok(term) = word.parse()
    {
        terms.push(term);
        rest = more;
    }
    let mut state = HardState { term: terms.last().copied().unwrap_or(0), ..HardState::default() };
    for pair in rest.chunks(2) {
        let [name, value] = pair else { return Err("a name and a number".to_owned()) };
        let number: u64 = value.parse().map_err(|_| format!("{name} takes a number"))?;
        match *name {
            "term" => state.term = number,
            "vote" => state.vote = Some(NodeId(number)),
            "commit" => state.commit = number,
            _ => return Err(format!("{name} is not term, vote or commit")),
        }
    }
    let cluster = stage.cluster()?;
    let outline = cluster.nodes[place].disk.image().state().outline;
    let membership = outline.memberships.into_values().next().unwrap_or_default();
    cluster.crash(place, 0).map_err(|e| e.to_string())?;
    cluster.preload(place, Image::of(state, founded_outline(membership), entries_of_terms(&terms)));
    stage.quietly(|stage| start(id, stage))
}

/// `bootstrap 1` with all nodes as members, `bootstrap 1 1 2` with these.
fn bootstrap(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let chosen = chosen(&words[1..], stage)?;
    let mut members = Cluster::founders(stage.nodes().len());
    members.retain(|member, _| chosen.contains(member));
    let result = stage.cluster()?.nodes[place].engine_mut().map(|engine| engine.bootstrap(members, now));
    if let Some(Err(refused)) = result {
        stage.print(format!("bootstrap refused: {refused:?}"));
    }
    stage.pump(id).map(drop)
}

/// `propose 1 a b`: two commands in one call.
fn propose(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let place = stage.place(id)?;
    let now = stage.clock(id);
    // `x*100` is a command of a hundred bytes.
    let command = |word: &&str| match word.split_once('*').map(|(text, count)| (text, count.parse())) {
        Some((text, Ok(count))) => Bytes::from(text.repeat(count)),
        _ => Bytes::from((*word).to_owned()),
    };
    let commands = words[1..].iter().map(command).collect();
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    let proposed = engine.propose(commands, now);
    print_proposed(id, proposed, stage)
}

/// `session 1 open`, `session 1 put 4 0 a`: command a as number 0 of the session that entry 4 opened, `session 1 close 4`.
fn session(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    const MARK: u64 = 1;
    let id = node(words, 0)?;
    let session = |word: &str| {
        let index = word.parse().map_err(|_| format!("{word} is no index"))?;
        Ok::<_, String>(SessionId { index, mark: MARK })
    };
    let action = match &words[1..] {
        ["open"] => SessionAction::Open { mark: MARK, limits: SessionLimits::default() },
        ["put", opened, number, command] => {
            let number = number.parse().map_err(|_| format!("{number} is no number"))?;
            let serial = Serial { session: session(opened)?, number, seen_below: 0 };
            SessionAction::Command { serial, command: Bytes::from((*command).to_owned()) }
        }
        ["close", opened] => SessionAction::Close { session: session(opened)? },
        _ => return Err("session 1 open, session 1 put 4 0 a, session 1 close 4".to_owned()),
    };
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    let proposed = engine.propose_sessions(vec![action], now);
    print_proposed(id, proposed, stage)
}

fn print_proposed(
    id: NodeId,
    proposed: Result<EntryId, ProposeError>,
    stage: &mut Stage,
) -> Result<(), String> {
    let line = match proposed {
        Ok(first) => format!("{id} proposes {first}"),
        Err(ProposeError::NotLeader { leader: Some(leader) }) => format!("{id} refuses: {leader} leads"),
        Err(ProposeError::NotLeader { leader: None }) => format!("{id} refuses: no leader is known"),
        Err(ProposeError::TooLarge { bytes, limit }) => {
            format!("{id} refuses: {bytes} bytes, at most {limit}")
        }
        Err(ProposeError::Transferring { to }) => format!("{id} refuses: {to} is to lead"),
        Err(refused @ ProposeError::NotKnown { .. }) => format!("{id} refuses: {refused}"),
        Err(other) => format!("{id} refuses: {other:?}"),
    };
    stage.print(line);
    stage.pump(id).map(drop)
}

/// `hand_over 1 2` hands leadership to node 2, `hand_over 1` to the best.
fn hand_over(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let to = words.get(1).map(|word| parse_node(word)).transpose()?;
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    if let Err(refused) = engine.transfer_leadership(to, now) {
        stage.print(format!("{id} refuses: {refused}"));
    }
    stage.pump(id).map(drop)
}

/// `read 1`, or `read 1 by lease`.
fn read(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let by_lease = match &words[1..] {
        [] => false,
        ["by", "lease"] => true,
        _ => return Err("read 1 by lease".to_owned()),
    };
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    let read = if by_lease { engine.read_by_lease(now) } else { engine.read(now) };
    let line = match read {
        Ok(read) => format!("{id} takes read r{}", read.0),
        Err(ReadError::NotLeader { leader: Some(leader) }) => format!("{id} refuses: {leader} leads"),
        Err(ReadError::NotLeader { leader: None }) => format!("{id} refuses: no leader is known"),
        Err(other) => format!("{id} refuses: {other:?}"),
    };
    stage.print(line);
    stage.pump(id).map(drop)
}

/// `deliver 1->2` all that waits there, `deliver 1->2 2` the second, `deliver` everything that waits now.
fn deliver(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let taken = if words.is_empty() { stage.take_messages(None) } else { take(words, stage)? };
    if taken.is_empty() {
        stage.print("nothing to deliver");
    }
    for envelope in taken {
        stage.print(format!("delivers {}", display::envelope(&envelope)));
        stage.deliver(envelope)?;
    }
    Ok(())
}

/// `1->2 [n]`: takes all messages of a link off the network, or the n-th.
fn take(words: Words<'_>, stage: &mut Stage) -> Result<Vec<Envelope>, String> {
    let link = link(words.first().ok_or("a link is missing: 1->2")?)?;
    let mut taken = stage.take_messages(Some(link));
    if let Some(number) = words.get(1) {
        let number: usize = number.parse().map_err(|_| "the number of a message")?;
        if number == 0 || number > taken.len() {
            return Err(format!("there are {} messages", taken.len()));
        }
        let wanted = taken.remove(number - 1);
        stage.network.extend(taken);
        taken = vec![wanted];
    }
    Ok(taken)
}

fn duplicate(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    for envelope in take(words, stage)? {
        stage.network.push(envelope.clone());
        stage.network.push(envelope);
    }
    Ok(())
}

fn reverse(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let mut taken = take(words, stage)?;
    taken.reverse();
    stage.network.extend(taken);
    Ok(())
}

/// `keep 1->2 name`: remembers the first message that waits on a link, and leaves it there.
fn keep(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let [at, name] = words else { return Err("keep 1->2 name".to_owned()) };
    let at = link(at)?;
    let first =
        stage.network.iter().find(|e| (e.from.node, e.to.node) == at).ok_or("no message waits there")?;
    stage.kept.insert((*name).to_owned(), first.clone());
    Ok(())
}

fn replay(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let name = words.first().ok_or("replay name")?;
    let envelope = stage.kept.get(*name).ok_or("no message was kept under that name")?.clone();
    stage.print(format!("delivers {}", display::envelope(&envelope)));
    stage.deliver(envelope)
}

/// `1->2`, or `3`: all links of a node, both ways.
fn links(words: Words<'_>, stage: &Stage) -> Result<Vec<Link>, String> {
    let mut links = Vec::new();
    for word in words {
        if word.contains("->") {
            links.push(link(word)?);
        } else {
            let node = parse_node(word)?;
            for other in stage.nodes().into_iter().filter(|&other| other != node) {
                links.extend([(node, other), (other, node)]);
            }
        }
    }
    Ok(links)
}

fn heal(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let links = links(words, stage)?;
    stage.cut.retain(|link| !links.is_empty() && !links.contains(link));
    Ok(())
}

fn release(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let links = links(words, stage)?;
    stage.held.retain(|link| !links.is_empty() && !links.contains(link));
    Ok(())
}

/// `snapshot 1`: an operator asks for one.
fn snapshot(id: NodeId, stage: &mut Stage) -> Result<(), String> {
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    let line = match engine.request_snapshot(now) {
        Ok(index) => format!("{id} will have a snapshot of {index}"),
        Err(refused) => format!("{id} refuses: {refused}"),
    };
    stage.print(line);
    stage.pump(id).map(drop)
}

/// `taken 1`: the snapshot that it writes is durable; `taken 1 fails`.
fn taken(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let fails = words.get(1) == Some(&"fails");
    if stage.taken(id, fails)? { Ok(()) } else { Err("it takes no snapshot".to_owned()) }
}

/// `transfer 1->3`: the snapshot on its way there arrives; `breaks`, `refused`, or `unheard`: it arrives and the sender
/// does not hear of it.
fn transfer(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let link = link(words.first().ok_or("transfer 1->3")?)?;
    let place = stage.transfers.iter().position(|transfer| transfer.link == link);
    let mut transfer = stage.transfers.remove(place.ok_or("no snapshot is on its way there")?);
    let outcome = match words.get(1) {
        None => SnapshotOutcome::Delivered,
        Some(&"breaks") => SnapshotOutcome::Failed,
        Some(&"refused") => SnapshotOutcome::Refused,
        Some(&"unheard") => {
            transfer.run = 0;
            SnapshotOutcome::Delivered
        }
        Some(_) => return Err("a transfer arrives, breaks, is refused, or arrives unheard".to_owned()),
    };
    stage.transferred(transfer, outcome)
}

/// `streams asked`: snapshots arrive at `transfer` only; `streams auto`: at `settle` too.
fn streams(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    stage.streams_asked = match words {
        ["asked"] => true,
        ["auto"] => false,
        _ => return Err("streams are asked or auto".to_owned()),
    };
    Ok(())
}

/// `offer 1->3 2.5`: a snapshot that 1 has or had goes to 3, which nobody asked for.
fn offer(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let link = link(words.first().ok_or("offer 1->3 2.5")?)?;
    let place = stage.place(link.0)?;
    let id = words.get(1).and_then(|word| parse_id(word)).ok_or("the snapshot's last entry: 2.5")?;
    let file = stage.cluster()?.nodes[place].shelf.get(id).cloned().ok_or("there is no such snapshot")?;
    stage.transferred(Transfer { link, run: 0, number: 0, file }, SnapshotOutcome::Delivered)
}

/// `disk 2 stalled`, `disk auto`.
fn disk(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let (mode, nodes) = match words {
        [mode] => (*mode, stage.nodes()),
        [node, mode] => (*mode, vec![parse_node(node)?]),
        _ => return Err("disk 2 stalled".to_owned()),
    };
    let mode = match mode {
        "asked" => DiskMode::Asked,
        "stalled" => DiskMode::Stalled,
        "auto" => DiskMode::Auto,
        _ => return Err("a disk is asked, stalled or auto".to_owned()),
    };
    for node in nodes {
        stage.disks.insert(node, mode);
    }
    Ok(())
}

/// `written 2` all that is on its way, `written 2 w3` up to there. Repeating an acknowledgement is allowed.
fn written(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let place = stage.place(id)?;
    let number = match words.get(1) {
        Some(word) => {
            word.strip_prefix('w').and_then(|n| n.parse().ok()).ok_or("a write is named like w3")?
        }
        None => stage.cluster()?.nodes[place].disk.in_flight().last().ok_or("nothing is being written")?,
    };
    stage.written(id, number)?;
    stage.pump(id).map(drop)
}

/// `crash 2` loses every write on its way, `crash 2 keep 1` but the first.
fn crash(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let place = stage.place(id)?;
    let keep = match words.get(1..3) {
        Some(["keep", count]) => count.parse().map_err(|_| "how many writes are kept")?,
        _ => 0,
    };
    stage.taking.remove(&id);
    stage.transfers.retain(|transfer| transfer.link.0 != id);
    stage.cluster()?.crash(place, keep).map_err(|e| e.to_string())
}

fn start(id: NodeId, stage: &mut Stage) -> Result<(), String> {
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let planted = stage.planted;
    let level = stage.levels.get(&id).copied();
    let cluster = stage.cluster()?;
    let started = cluster.start(place, 0, now);
    if let (Some(bug), Some(engine)) = (planted, cluster.nodes[place].engine_mut()) {
        engine.plant(bug);
    }
    if let (Some(level), Some(engine)) = (level, cluster.nodes[place].engine_mut()) {
        engine.play_older(level);
    }
    if let Err(broken) = started {
        stage.report(&broken);
    }
    stage.pump(id).map(drop)
}

/// `older 4 1`: node 4 runs an older version, which knows payloads up to level 1; `older 4` upgrades it. It is restarted.
fn older(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    match words.get(1) {
        Some(level) => drop(stage.levels.insert(id, level.parse().map_err(|_| "older 4 1")?)),
        None => drop(stage.levels.remove(&id)),
    }
    let place = stage.place(id)?;
    stage.cluster()?.crash(place, 0).map_err(|e| e.to_string())?;
    start(id, stage)
}

/// `wipe 3`: the node gets a blank disk, in a data folder that nobody knows; it starts.
fn wipe(id: NodeId, stage: &mut Stage) -> Result<(), String> {
    let place = stage.place(id)?;
    stage.cluster()?.nodes[place].wipe();
    start(id, stage)
}

/// `copy 3 old`: keeps a copy of a node's data folder.
fn copy(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let place = stage.place(node(words, 0)?)?;
    let name = words.get(1).ok_or("copy 3 name")?;
    let image = stage.cluster()?.nodes[place].disk.image().clone();
    stage.copies.insert((*name).to_owned(), image);
    Ok(())
}

/// `put_back 3 old`: the node gets an old copy of its data folder; it starts.
fn put_back(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let place = stage.place(id)?;
    let name = words.get(1).ok_or("put_back 3 name")?;
    let image = stage.copies.get(*name).cloned().ok_or("there is no such copy")?;
    let cluster = stage.cluster()?;
    cluster.crash(place, 0).map_err(|e| e.to_string())?;
    cluster.put_back(place, image);
    start(id, stage)
}

/// `members 1: 1 2 4 learners 5 readmit 3 at 2=elsewhere:1 based_on 7`: node 1 is asked for these voters and learners, new ones
/// by address only.
fn members(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let (&first, rest) = words.split_first().ok_or("members 1: 1 2 4")?;
    let id = parse_node(first.trim_end_matches(':'))?;
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine().ok_or("the node does not run")?;
    let known = engine.membership().nodes.clone();
    let info = |node: NodeId| known.get(&node).cloned().unwrap_or_else(|| NodeInfo::at(format!("n{node}:1")));
    let (mut target, mut based_on, mut part) = (Target::default(), None, "");
    for word in rest {
        match (part, *word) {
            (_, "learners" | "readmit" | "at" | "based_on") => part = word,
            ("at", word) => {
                let (node, address) = word.split_once('=').ok_or("at 2=elsewhere:1")?;
                let node = parse_node(node)?;
                target.nodes.entry(node).or_insert_with(|| info(node)).address = address.to_owned();
            }
            ("based_on", word) => based_on = Some(word.parse().map_err(|_| "an index")?),
            ("learners", word) => target = target.learner(parse_node(word)?, info(parse_node(word)?)),
            ("readmit", word) => target = target.readmit(parse_node(word)?),
            (_, word) => target = target.voter(parse_node(word)?, info(parse_node(word)?)),
        }
    }
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    if let Err(refused) = engine.set_members(target, based_on, now) {
        stage.print(format!("{id} refuses: {refused}"));
    }
    stage.pump(id).map(drop)
}

/// `lease 1 timeout 500 drift 1000`, `lease 1 off`: node 1 is asked for leases of an election timeout in milliseconds and a bound on the
/// drift of clocks in parts of a million, or for none.
fn lease(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let wrong = || "lease 1 timeout 500 drift 1000, or lease 1 off".to_owned();
    let lease = match words[1..] {
        ["off"] => None,
        ["timeout", timeout, "drift", drift] => Some(Lease {
            election_timeout_micros: 1_000 * timeout.parse::<u64>().map_err(|_| wrong())?,
            clock_drift_ppm: drift.parse().map_err(|_| wrong())?,
        }),
        _ => return Err(wrong()),
    };
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    if let Err(refused) = engine.set_lease(lease, now) {
        stage.print(format!("{id} refuses: {refused}"));
    }
    stage.pump(id).map(drop)
}

/// `give_up 1`: node 1 is asked to give up the change of the members that is under way.
fn give_up(id: NodeId, stage: &mut Stage) -> Result<(), String> {
    let place = stage.place(id)?;
    let now = stage.clock(id);
    let engine = stage.cluster()?.nodes[place].engine_mut().ok_or("the node does not run")?;
    if let Err(refused) = engine.give_up_change(now) {
        stage.print(format!("{id} refuses: {refused}"));
    }
    stage.pump(id).map(drop)
}

/// The configuration in force at each node, and where its change stands.
fn membership(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    for id in chosen(words, stage)? {
        let place = stage.place(id)?;
        let Some(status) = stage.cluster()?.nodes[place].engine().map(crate::engine::Engine::status) else {
            stage.print(format!("{id} is down"));
            continue;
        };
        let dismissed = status.dismissed.map_or_else(String::new, |d| format!(", {}", d.as_str()));
        let committed = if status.membership_index > status.commit { ", not committed" } else { "" };
        stage.print(format!(
            "{id} {} of {}{committed}{dismissed}",
            status.membership, status.membership_index
        ));
        for wait in status.change.into_iter().flat_map(|change| change.waits) {
            stage.print(format!("  waits for {wait:?}"));
        }
    }
    Ok(())
}

/// `recover 2`: an operator makes the log of a node that is down the beginning of a new lineage; it starts.
fn recover(id: NodeId, stage: &mut Stage) -> Result<(), String> {
    let place = stage.place(id)?;
    if stage.runs(id) {
        return Err("the node runs".to_owned());
    }
    match stage.cluster()?.recover(place, Lineage::drawn(2)) {
        Ok(done) => stage.print(format!(
            "{id} begins a new lineage with {} after {}, of which {} was known to be committed",
            done.first, done.last, done.commit
        )),
        Err(refused) => stage.print(format!("{id} is not recovered: {refused}")),
    }
    start(id, stage)
}

/// `restore 1 3.7`: an operator begins the log of a blank node with a backup that ends at 3.7; it starts.
fn restore(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let place = stage.place(id)?;
    let last = parse_id(words.get(1).ok_or("restore 1 3.7")?).ok_or("the backup's last entry: 3.7")?;
    let cluster = stage.cluster()?;
    cluster.crash(place, 0).map_err(|e| e.to_string())?;
    cluster.restore_backup(place, last)?;
    start(id, stage)
}

fn parse_id(word: &str) -> Option<EntryId> {
    let (term, index) = word.split_once('.')?;
    Some(EntryId::new(term.parse().ok()?, index.parse().ok()?))
}

/// `forge 3->2 append t1 prev 1.1 [1.3] commit 1`: puts on the network what no engine would send, `heartbeat` without entries
/// and `accepted t1 matched 9` likewise. The lineage is the sender's, or that after `lineage`.
fn forge(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let (from, to) = link(words.first().ok_or("forge 3->2 heartbeat t1 prev 1.1 commit 1")?)?;
    let mut numbers = BTreeMap::new();
    let mut ids = Vec::new();
    let mut name = "";
    for word in words.get(2..).unwrap_or_default() {
        let word = word.trim_matches(['[', ']']);
        if let Some(id) = parse_id(word) {
            ids.push(id);
        } else if let Ok(number) = word.parse::<u64>() {
            numbers.insert(name, number);
        } else if let Some(term) = word.strip_prefix('t').and_then(|term| term.parse().ok()) {
            numbers.insert("term", term);
        } else {
            name = word;
        }
    }
    let number = |name| numbers.get(name).copied().unwrap_or(0);
    let (term, round) = (number("term"), number("round"));
    let message = match words.get(1) {
        Some(&"append" | &"heartbeat") if !ids.is_empty() => {
            let prev = ids.remove(0);
            let entries = ids.into_iter().map(|id| Entry { id, payload: Payload::Noop }).collect();
            Message::AppendRequest(AppendRequest { term, prev, entries, commit: number("commit"), round })
        }
        Some(&"accepted") => {
            let (matched, received) = (number("matched"), number("received").max(number("matched")));
            let outcome = AppendOutcome::Accepted { matched, received };
            Message::AppendResponse(AppendResponse { term, round, outcome, priority: 0, level: 1 })
        }
        Some(&"timeout-now") => Message::TimeoutNow(TimeoutNow { term, round }),
        _ => return Err("an append, a heartbeat, an accepted or a timeout-now is forged".to_owned()),
    };
    let (from, to) = (stage.place(from)?, stage.place(to)?);
    let nodes = &stage.cluster()?.nodes;
    let own = nodes[from].engine().map_or(Lineage::UNKNOWN, crate::engine::Engine::lineage);
    let lineage = numbers.get("lineage").map_or(own, |&number| Lineage(number));
    let (from, to) = (nodes[from].peer(), nodes[to].peer());
    stage.network.push(Envelope { group: GroupId::default(), from, to, lineage, message });
    Ok(())
}

/// `tick 1 60` moves one clock by 60 ms, `tick 60` all of them.
fn tick(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let (nodes, by) = match words {
        [by] => (stage.nodes(), by),
        [node, by] => (vec![parse_node(node)?], by),
        _ => return Err("tick 1 60".to_owned()),
    };
    let by = Duration::from_millis(by.parse().map_err(|_| "milliseconds")?);
    for id in nodes {
        let now = stage.clock(id) + by;
        stage.clocks.insert(id, now);
        let place = stage.place(id)?;
        if let Some(engine) = stage.cluster()?.nodes[place].engine_mut() {
            engine.tick(now);
        }
        stage.pump(id)?;
    }
    Ok(())
}

/// `later 1 60`: a clock goes on by 60 ms, and the node does not look: its process stood still.
fn later(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let [node, by] = words else { return Err("later 1 60".to_owned()) };
    let id = parse_node(node)?;
    let by = Duration::from_millis(by.parse().map_err(|_| "milliseconds")?);
    let now = stage.clock(id) + by;
    stage.clocks.insert(id, now);
    Ok(())
}

/// `heartbeats 1 10`: ten times a heartbeat interval of node 1, each with what follows from it; the others' clocks go along.
fn heartbeats(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let id = node(words, 0)?;
    let count: usize = words.get(1).and_then(|word| word.parse().ok()).ok_or("how many")?;
    let place = stage.place(id)?;
    let interval = stage.cluster()?.nodes[place].config().heartbeat_interval.as_millis().to_string();
    for _ in 0..count {
        tick(&[words[0], interval.as_str()], stage)?;
        stage.settle()?;
        for other in stage.nodes().into_iter().filter(|&other| other != id) {
            tick(&[other.to_string().as_str(), interval.as_str()], stage)?;
        }
        stage.settle()?;
    }
    Ok(())
}

fn chosen(words: Words<'_>, stage: &Stage) -> Result<Vec<NodeId>, String> {
    if words.is_empty() { Ok(stage.nodes()) } else { words.iter().map(|word| parse_node(word)).collect() }
}

fn status(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    for id in chosen(words, stage)? {
        let place = stage.place(id)?;
        let Some(status) = stage.cluster()?.nodes[place].engine().map(crate::engine::Engine::status) else {
            stage.print(format!("{id} is down"));
            continue;
        };
        let or_none = |node: Option<NodeId>| node.map_or_else(|| "-".to_owned(), |node| node.to_string());
        stage.print(format!(
            "{id} {} t{} vote {} leader {} last {} durable {} commit {} applied {}",
            status.role.as_str(),
            status.term,
            or_none(status.vote),
            or_none(status.leader),
            status.last,
            status.durable,
            status.commit,
            status.applied
        ));
        if status.snapshot != EntryId::ZERO {
            stage.print(format!("  snapshot {} log after {}", status.snapshot, status.base));
        }
        for (peer, progress) in status.peers {
            stage.print(format!(
                "  {peer} matched {} next {} inflight {}{}{}",
                progress.matched,
                progress.next,
                progress.inflight,
                if progress.active { "" } else { " inactive" },
                progress.snapshot.map_or_else(String::new, |last| format!(" snapshot {last}"))
            ));
        }
    }
    Ok(())
}

/// `explain 1`: why nothing goes on, as the node sees it.
fn explain(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    for id in chosen(words, stage)? {
        let (place, now) = (stage.place(id)?, stage.clock(id));
        let findings = stage.cluster()?.nodes[place].engine().map(|engine| engine.explain(now));
        let findings = findings.ok_or_else(|| format!("node {id} does not run"))?;
        if findings.is_empty() {
            stage.print(format!("{id}: all is well"));
        }
        for finding in findings {
            stage.print(format!("{id}: {finding}"));
        }
    }
    Ok(())
}

/// The terms of a node's entries, durable ones before the bar.
fn log(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    for id in chosen(words, stage)? {
        let place = stage.place(id)?;
        let disk = &stage.cluster()?.nodes[place].disk;
        let durable = disk.image();
        let terms = |entries: &[crate::types::Entry]| -> String {
            entries.iter().map(|entry| format!(" {}", entry.term())).collect()
        };
        let ahead = disk.ahead().entries();
        let common =
            durable.entries().iter().zip(ahead).take_while(|(held, coming)| held.id == coming.id).count();
        let mut line =
            format!("{id}:{}  [{}]", terms(durable.entries()), display::hard_state(&durable.hard_state()));
        if common < durable.entries().len() || common < ahead.len() {
            line = format!("{line}  on its way from {}:{}", common + 1, terms(&ahead[common..]));
        }
        stage.print(line);
    }
    Ok(())
}

/// What waits to be delivered.
fn network(stage: &mut Stage) -> Result<(), String> {
    let lines: Vec<String> = stage.network.iter().map(display::envelope).collect();
    for line in lines {
        stage.print(line);
    }
    Ok(())
}

/// `rounds 1->2`: what went over a link since it was last asked, and how often the other side refused.
fn rounds(words: Words<'_>, stage: &mut Stage) -> Result<(), String> {
    let (from, to) = link(words.first().ok_or("rounds 1->2")?)?;
    let sent = stage.traffic.insert((from, to), Traffic::default()).unwrap_or_default();
    let back = stage.traffic.insert((to, from), Traffic::default()).unwrap_or_default();
    stage.print(format!(
        "{from}->{to} {} appends, {} heartbeats, {} conflicts",
        sent.appends, sent.heartbeats, back.conflicts
    ));
    Ok(())
}

/// What every node applied: whether all are the same.
fn states(stage: &mut Stage) -> Result<(), String> {
    let applied: Vec<_> = stage.cluster()?.nodes.iter().map(|node| (node.id(), node.applied)).collect();
    for (id, applied) in &applied {
        stage.print(format!("{id} applied to {}", applied.last));
    }
    let equal = applied.windows(2).all(|pair| pair[0].1 == pair[1].1);
    stage.print(if equal { "all states are equal" } else { "the states differ" });
    Ok(())
}

fn link(word: &str) -> Result<Link, String> {
    let (from, to) = word.split_once("->").ok_or("a link is written 1->2")?;
    Ok((parse_node(from)?, parse_node(to)?))
}

fn node(words: Words<'_>, place: usize) -> Result<NodeId, String> {
    parse_node(words.get(place).ok_or("a node is missing")?)
}

fn parse_node(word: &str) -> Result<NodeId, String> {
    word.parse().map(NodeId).map_err(|_| format!("{word} is no node"))
}
