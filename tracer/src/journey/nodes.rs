//! Journeys of one packet that several nodes have recorded, joined: what left one node and came to the next.
//!
//! The nodes' clocks are not compared, for they may differ by more than a packet takes. What orders is who sends to
//! whom: a packet is sent before it comes, and its time to live only goes down. What NAT and tunnels leave alone
//! ([`Sight`]) tells that it is the same packet. Where more than one order is possible, or more than one packet,
//! nothing is joined and the journeys say so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    By, Journey, Outcome, What, changes,
    connections::Decided,
    identity::{Identity, Likeness, Sight},
};
use crate::{
    passage::Passage,
    traversal::{Device, Hook, PacketId, Verdict},
};

/// Journeys that are compared with each other. Of more each so many are compared among themselves.
const COMPARED_MAX: usize = 100_000;
/// Journeys with one identity; more of them are not told apart.
const ALIKE_MAX: usize = 16;
/// Others have numbers of their own, behind these.
const OTHERS: u64 = 1 << 48;

/// Where a journey goes on: on another node, or on the same one as the packet of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    /// Place of the first passage behind it.
    pub passage: usize,
    /// What lies between.
    pub how: How,
    /// How long the part before it took, by its node's clock.
    pub before_ns: u64,
}

/// What lies between two parts of a journey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The way from one node to another; its addresses are the same behind it.
    Sent,
    /// The same, with somebody between them that gave it other addresses.
    Translated,
    /// It was put into a tunnel's packet, on the same node.
    Wrapped,
    /// It was taken out of one, on the same node.
    Unwrapped,
}

/// Joins journeys of several recordings.
#[derive(Debug, Default)]
pub struct Nodes {
    /// Those that are asked for.
    journeys: Vec<Journey>,
    /// Others, which are shown only as parts of those.
    others: Vec<Journey>,
    /// Numbers given so far.
    last_number: u64,
    /// What was found so far.
    pub counts: NodeCounts,
}

/// What joining has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Journeys made of several.
    pub joined: u64,
    /// Journeys that have others like them on other nodes, and it cannot be told which is which.
    pub ambiguous: u64,
    /// How often what there was so far was compared: more than once where there are too many for one time.
    pub batches: u64,
}

impl Nodes {
    /// Takes a journey that is over. True where there are now so many that [`Nodes::join`] is due.
    pub fn take(&mut self, journey: Journey) -> bool {
        self.journeys.push(journey);
        self.is_full()
    }

    /// Takes a journey that is to be shown only where it is a part of another one.
    pub fn take_other(&mut self, mut journey: Journey) -> bool {
        renumber(&mut journey, |number| number.saturating_add(OTHERS));
        self.others.push(journey);
        self.is_full()
    }

    fn is_full(&self) -> bool {
        self.journeys.len() + self.others.len() >= COMPARED_MAX
    }

    /// Joins what was taken, and hands out what is to be shown, numbered in the order in which it appeared.
    pub fn join(&mut self) -> Vec<Journey> {
        let wanted = self.journeys.len();
        let mut all = std::mem::take(&mut self.journeys);
        // Of a packet that was asked for from some table on, what came before is none of its parts.
        let known: HashSet<PacketId> = all
            .iter()
            .map(|journey| journey.first().traversal.packet)
            .collect();
        let others = self.others.drain(..);
        all.extend(others.filter(|other| !known.contains(&other.first().traversal.packet)));
        self.counts.batches += 1;
        let parts: Vec<Part> = all.iter().map(Part::of).collect();
        let links = self.links(&mut all, &parts, wanted);
        let mut slots: Vec<Option<Journey>> = all.into_iter().map(Some).collect();
        let mut shown: Vec<(Journey, Vec<u64>)> = Vec::new();
        let before: HashMap<usize, How> = links.values().copied().collect();
        for chain in chains(slots.len(), &links) {
            // What is asked for, or has a part that is.
            if chain.iter().all(|place| *place >= wanted) {
                continue;
            }
            let mut whole: Option<(Journey, Vec<u64>)> = None;
            for place in chain {
                let Some(part) = slots[place].take() else {
                    continue;
                };
                let number = part.number;
                whole = Some(match (whole, before.get(&place)) {
                    (Some((mut journey, mut numbers)), Some(how)) => {
                        numbers.push(number);
                        append(&mut journey, part, *how);
                        (journey, numbers)
                    }
                    _ => (part, vec![number]),
                });
            }
            shown.extend(whole);
        }
        shown.sort_by_key(|(_, numbers)| numbers.iter().min().copied());
        let mut new = HashMap::new();
        for (journey, numbers) in &shown {
            self.counts.joined += u64::from(!journey.joints.is_empty());
            self.last_number += 1;
            new.extend(numbers.iter().map(|number| (*number, self.last_number)));
        }
        shown
            .into_iter()
            .map(|(mut journey, _)| {
                renumber(&mut journey, |number| new.get(&number).copied().unwrap_or(0));
                journey
            })
            .collect()
    }

    /// Which journeys go on as which others. Those that cannot be told apart are told so.
    fn links(&mut self, all: &mut [Journey], parts: &[Part], wanted: usize) -> BTreeMap<usize, (usize, How)> {
        let mut alike: HashMap<&Identity, Vec<usize>> = HashMap::new();
        for (place, part) in parts.iter().enumerate() {
            let mut identities: Vec<&Identity> = part.sights().map(|sight| &sight.identity).collect();
            identities.dedup();
            for identity in identities {
                alike.entry(identity).or_default().push(place);
            }
        }
        let mut groups: Vec<Vec<usize>> = alike.into_values().filter(|group| group.len() > 1).collect();
        groups.sort_unstable();
        let mut links = BTreeMap::new();
        for group in groups {
            let (found, unclear) = if group.len() > ALIKE_MAX {
                (Vec::new(), group)
            } else {
                order(parts, &group)
            };
            links.extend(found.into_iter().map(|(from, to, how)| (from, (to, how))));
            self.say_unclear(all, parts, &unclear, wanted);
        }
        links
    }

    fn say_unclear(&mut self, all: &mut [Journey], parts: &[Part], unclear: &[usize], wanted: usize) {
        for &place in unclear {
            let elsewhere = unclear
                .iter()
                .filter(|other| parts[**other].recording != parts[place].recording)
                .count();
            if elsewhere == 0 {
                continue;
            }
            self.counts.ambiguous += u64::from(place < wanted);
            all[place].partial.push(format!(
                "not joined with what other nodes have recorded: {elsewhere} packets there are like it in all that NAT \
                 and tunnels leave alone"
            ));
        }
    }
}

/// What of a journey has to do with other nodes.
#[derive(Debug)]
struct Part {
    recording: u32,
    entered_ns: u64,
    left_ns: u64,
    /// How it looked when it came from outside; `None` where it was made here, or that is not known.
    came: Option<Sight>,
    /// How it looked at first, where it was made on this node.
    made: Option<Sight>,
    /// How it left the node, if it may have.
    left: Option<Sight>,
    /// How it was delivered on this node, if it was.
    delivered: Option<Sight>,
}

impl Part {
    fn of(journey: &Journey) -> Self {
        let (first, last) = (&journey.first().traversal, &journey.last().traversal);
        let is_loopback = |device: &Option<Device>| device.as_ref().is_some_and(|device| device.name == "lo");
        let at_first = || {
            let mut sight = Sight::of(&first.headers)?;
            // `ip_forward` (`net/ipv4/ip_forward.c`) takes one off before the hook.
            sight.ttl = sight.ttl.saturating_add(u8::from(first.hook == Hook::Forward));
            Some(sight)
        };
        let at_last = || after_the_last(journey);
        let from_outside = matches!(first.hook, Hook::PreRouting | Hook::LocalIn | Hook::Forward)
            && first.in_device.is_some()
            && !is_loopback(&first.in_device);
        let accepted = last.verdict == Verdict::Accept && !journey.outcome.is_drop();
        let may_leave = matches!(last.hook, Hook::PostRouting | Hook::Forward | Hook::LocalOut)
            && !is_loopback(&last.out_device);
        Self {
            recording: first.packet.recording(),
            entered_ns: first.entered_ns,
            left_ns: last.left_ns,
            came: from_outside.then(at_first).flatten(),
            made: (first.hook == Hook::LocalOut).then(at_first).flatten(),
            left: (accepted && may_leave).then(at_last).flatten(),
            delivered: (accepted && last.hook == Hook::LocalIn).then(at_last).flatten(),
        }
    }

    fn sights(&self) -> impl Iterator<Item = &Sight> {
        [&self.came, &self.made, &self.left, &self.delivered]
            .into_iter()
            .flatten()
    }

    /// Whether a journey can go on as another one, and what then lies between.
    fn goes_on_as(&self, next: &Self) -> Option<How> {
        let same = |from: &Sight, to: &Sight| {
            let alike = from.identity == to.identity && to.ttl <= from.ttl;
            if alike {
                from.likeness(to)
            } else {
                Likeness::Different
            }
        };
        if self.recording != next.recording {
            let (from, to) = (self.left.as_ref()?, next.came.as_ref()?);
            return match same(from, to) {
                Likeness::Same => Some(How::Sent),
                // Nobody translates what is in a tunnel.
                Likeness::BehindNat if from.depth == 0 && to.depth == 0 => Some(How::Translated),
                Likeness::BehindNat | Likeness::Unknown | Likeness::Different => None,
            };
        }
        // On one node there is one clock.
        if self.left_ns > next.entered_ns {
            return None;
        }
        if let (Some(from), Some(to)) = (&self.left, &next.made) {
            return (from.depth < to.depth && same(from, to) == Likeness::Same).then_some(How::Wrapped);
        }
        if let (Some(from), Some(to)) = (&self.delivered, &next.came) {
            return (from.depth > to.depth && same(from, to) == Likeness::Same).then_some(How::Unwrapped);
        }
        None
    }
}

/// How a packet looks behind its last table, with what NAT did there.
fn after_the_last(journey: &Journey) -> Option<Sight> {
    let mut sight = Sight::of(&journey.last().traversal.headers)?;
    let changes = journey.changes.iter();
    for change in changes.filter(|change| change.passage + 1 == journey.passages.len()) {
        match change.what {
            // A tunnel's own header is none of the inner packet's business.
            _ if sight.depth > 0 => {}
            What::Source(_, after) => sight.source = after,
            What::Destination(_, after) => sight.destination = after,
            What::Ttl(_, after) => sight.ttl = after,
            What::Mark(..) | What::Tos(..) => {}
        }
    }
    Some(sight)
}

/// Which of some journeys that are alike go on as which others, where they can have only one order; and those that can
/// have several.
fn order(parts: &[Part], group: &[usize]) -> (Vec<Link>, Vec<usize>) {
    let mut edges: Vec<Link> = Vec::new();
    for (from, to) in pairs(group) {
        if let Some(how) = parts[from].goes_on_as(&parts[to]) {
            edges.push((from, to, how));
        }
    }
    // Where one fits exactly nobody has to have translated addresses.
    let exact: Vec<Link> = edges
        .iter()
        .filter(|(.., how)| *how != How::Translated)
        .copied()
        .collect();
    edges.retain(|(from, to, how)| {
        let better = exact.iter().any(|(other, also, _)| other == from || also == to);
        *how != How::Translated || !better
    });
    let has = |from: usize, to: usize| edges.iter().any(|(first, last, _)| (*first, *last) == (from, to));
    // What is reached over another one is not reached directly.
    let direct: Vec<Link> = edges
        .iter()
        .filter(|(from, to, _)| {
            !group
                .iter()
                .any(|between| has(*from, *between) && has(*between, *to))
        })
        .copied()
        .collect();
    let mut unclear: Vec<usize> = Vec::new();
    for (from, to, _) in &edges {
        let out = direct.iter().filter(|(other, ..)| other == from).count();
        let into = direct.iter().filter(|(_, other, _)| other == to).count();
        // Nothing comes before itself.
        if out != 1 || into != 1 || reaches(&direct, *to, *from) {
            unclear.extend([*from, *to]);
        }
    }
    // What is unclear makes all unclear that hangs on it.
    loop {
        let known = unclear.len();
        for (from, to, _) in &edges {
            if unclear.contains(from) != unclear.contains(to) {
                unclear.extend([*from, *to]);
            }
        }
        unclear.sort_unstable();
        unclear.dedup();
        if unclear.len() == known {
            break;
        }
    }
    let clear = direct.into_iter().filter(|(from, ..)| !unclear.contains(from));
    (clear.collect(), unclear)
}

/// A journey, the one that it goes on as, and what lies between.
type Link = (usize, usize, How);

fn pairs(group: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let with_each = |from: &usize| {
        let from = *from;
        group.iter().map(move |to| (from, *to))
    };
    group.iter().flat_map(with_each).filter(|(from, to)| from != to)
}

fn reaches(links: &[Link], from: usize, to: usize) -> bool {
    let mut at = from;
    for _ in 0..=links.len() {
        if at == to {
            return true;
        }
        match links.iter().find(|(first, ..)| *first == at) {
            Some((_, next, _)) => at = *next,
            None => return false,
        }
    }
    false
}

/// Joins links to chains; a journey without any is one by itself.
fn chains(len: usize, links: &BTreeMap<usize, (usize, How)>) -> Vec<Vec<usize>> {
    let mut continues = vec![false; len];
    for (to, _) in links.values() {
        continues[*to] = true;
    }
    let mut chains = Vec::new();
    for first in (0..len).filter(|place| !continues[*place]) {
        let mut chain = vec![first];
        let mut last = first;
        while let Some((next, _)) = links.get(&last) {
            chain.push(*next);
            last = *next;
        }
        chains.push(chain);
    }
    chains
}

/// Adds what a journey went on as.
fn append(journey: &mut Journey, next: Journey, how: How) {
    let offset = journey.passages.len();
    let before_ns = journey.part_ns(journey.last().traversal.left_ns);
    let crossed = match how {
        How::Sent | How::Translated => changes::across(journey, &next),
        How::Wrapped | How::Unwrapped => Vec::new(),
    };
    journey.changes.extend(crossed);
    journey.joints.push(Joint {
        passage: offset,
        how,
        before_ns,
    });
    let moved = next.joints.into_iter().map(|joint| Joint {
        passage: joint.passage + offset,
        ..joint
    });
    journey.joints.extend(moved);
    journey.changes.extend(next.changes.into_iter().map(|mut change| {
        change.passage += offset;
        change
    }));
    journey.passages.extend(next.passages);
    journey.flows.extend(next.flows);
    journey.ties.extend(next.ties);
    journey.partial.extend(next.partial);
    journey.ended_ns = next.ended_ns;
    journey.outcome = match next.outcome {
        Outcome::Dropped { passage, rejected } => Outcome::Dropped {
            passage: passage + offset,
            rejected,
        },
        other => other,
    };
}

/// Gives a journey, and all that it refers to, other numbers; zero is a packet that is not shown.
fn renumber(journey: &mut Journey, new: impl Fn(u64) -> u64) {
    let number = new(journey.number);
    journey.number = number;
    for tie in &mut journey.ties {
        tie.other = new(tie.other);
    }
    journey.ties.retain(|tie| tie.other != 0 && tie.other != number);
    let again = |decided: &mut Option<Arc<Decided>>| {
        if let Some(known) = decided {
            *known = Arc::new(Decided {
                rule: known.rule.clone(),
                journey: new(known.journey),
            });
        }
    };
    for flow in &mut journey.flows {
        again(&mut flow.dnat);
        again(&mut flow.snat);
    }
    for change in &mut journey.changes {
        if let By::Nat { decided, .. } = &mut change.by {
            again(decided);
        }
    }
}

impl Joint {
    /// What lies between, in words for people.
    #[must_use]
    pub fn words(&self, behind: &Passage) -> String {
        let node = behind.traversal.node.as_deref().unwrap_or("another node");
        match self.how {
            How::Sent => format!("on to {node}"),
            How::Translated => format!("on to {node}, with other addresses: by NAT that was not recorded"),
            How::Wrapped => "in a tunnel's packet".to_owned(),
            How::Unwrapped => "taken out of the tunnel's packet".to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
