//! One JSON object for each journey, on a line of its own. `docs/json.md` says what is in it, `docs/journey.schema.json`
//! says so to programs; both are part of the contract, and [`VERSION`] grows when something in it changes its meaning
//! or goes.

use std::io::{self, Write};

use serde::Serialize;

use super::{Context, Output, words};
use crate::{
    connection::Tuple,
    journey::{By, Change, Flow, How, Journey, Outcome, Relation, RuleRef},
    packet::{Packet, Transport, tcp_flag_names},
    passage::{Backend, Passage, Step},
    traversal::{Conntrack, Device, Family},
};

/// Version of the contract.
const VERSION: u32 = 1;

pub(super) struct Json {
    writer: Box<dyn Write>,
    context: Context,
}

impl Json {
    pub(super) fn new(writer: Box<dyn Write>, context: Context) -> Self {
        Self { writer, context }
    }
}

impl Output for Json {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        let object = Object::of(journey, &self.context);
        serde_json::to_writer(&mut self.writer, &object).map_err(io::Error::from)?;
        self.writer.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    kind: &'static str,
    number: u64,
    time: String,
    duration_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    netns: u32,
    packet: Option<PacketObject>,
    length: u32,
    outcome: OutcomeObject<'a>,
    tables: Vec<TableObject<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    joints: Vec<JointObject>,
    changes: Vec<ChangeObject<'a>>,
    connections: Vec<FlowObject<'a>>,
    related: Vec<TieObject>,
    end_seen: bool,
    complete: bool,
    partial: &'a [String],
}

#[derive(Serialize)]
struct JointObject {
    table: usize,
    how: &'static str,
}

#[derive(Serialize)]
struct PacketObject {
    text: String,
    protocol: String,
    protocol_number: u8,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_flags: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment_offset: Option<u32>,
}

#[derive(Serialize)]
struct OutcomeObject<'a> {
    verdict: &'static str,
    fate: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<RuleObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves_as: Option<PacketObject>,
}

#[derive(Serialize)]
struct RuleObject {
    backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_family: Option<String>,
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
struct TableObject<'a> {
    time: String,
    duration_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    netns: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns_name: Option<&'a str>,
    backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_family: Option<String>,
    family: &'static str,
    table: &'a str,
    chain: &'a str,
    hook: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#in: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out_peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port_in: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port_in_peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port_out: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port_out_peer: Option<&'a str>,
    verdict: String,
    conntrack: ConntrackObject,
    mark: u32,
    mark_after: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerObject>,
    packet: Option<String>,
    steps: Vec<StepObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_by_match_of: Option<RuleObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<&'a str>,
}

#[derive(Serialize)]
struct ConntrackObject {
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<u32>,
}

#[derive(Serialize)]
struct OwnerObject {
    uid: u32,
    gid: u32,
}

#[derive(Serialize)]
struct StepObject<'a> {
    rule: String,
    chain: &'a str,
    kind: String,
    number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    action: String,
    depth: u16,
    mark: u32,
    mark_after: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<&'a str>,
}

#[derive(Serialize)]
struct ChangeObject<'a> {
    what: &'static str,
    before: String,
    after: String,
    by: &'static str,
    table: usize,
    step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<DecidedObject<'a>>,
}

#[derive(Serialize)]
struct DecidedObject<'a> {
    backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_family: Option<String>,
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    journey: u64,
}

#[derive(Serialize)]
struct FlowObject<'a> {
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    netns: u32,
    direction: &'static str,
    state: String,
    original: TupleObject,
    reply: TupleObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    dnat: Option<DecidedObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snat: Option<DecidedObject<'a>>,
}

#[derive(Serialize)]
struct TupleObject {
    protocol_number: u8,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
}

#[derive(Serialize)]
struct TieObject {
    relation: &'static str,
    journey: u64,
}

impl<'a> Object<'a> {
    fn of(journey: &'a Journey, context: &Context) -> Self {
        let first = &journey.first().traversal;
        let packet = Packet::parse(&first.headers);
        Self {
            version: VERSION,
            kind: "journey",
            number: journey.number,
            time: context.clock.utc(first.entered_ns),
            duration_ns: journey.duration_ns(),
            node: first.node.as_deref(),
            netns: first.netns,
            packet: packet.as_ref().map(PacketObject::of),
            length: first.packet_len,
            outcome: OutcomeObject::of(journey),
            tables: journey
                .passages
                .iter()
                .map(|passage| TableObject::of(passage, context))
                .collect(),
            joints: journey
                .joints
                .iter()
                .map(|joint| JointObject {
                    table: joint.passage,
                    how: match joint.how {
                        How::Sent => "sent",
                        How::Translated => "translated",
                        How::Wrapped => "wrapped",
                        How::Unwrapped => "unwrapped",
                    },
                })
                .collect(),
            changes: journey.changes.iter().map(ChangeObject::of).collect(),
            connections: journey
                .flows
                .iter()
                .map(|flow| FlowObject::of(flow, journey))
                .collect(),
            related: journey
                .ties
                .iter()
                .map(|tie| TieObject {
                    relation: match tie.relation {
                        Relation::Sent => "sent",
                        Relation::SentBy => "sent_by",
                        Relation::Continues => "continues",
                        Relation::FragmentOf => "fragment_of",
                    },
                    journey: tie.other,
                })
                .collect(),
            end_seen: journey.ended_ns.is_some(),
            complete: journey.partial.is_empty(),
            partial: &journey.partial,
        }
    }
}

impl PacketObject {
    fn of(packet: &Packet) -> Self {
        let mut object = Self {
            text: packet.to_string(),
            protocol: packet.protocol_name().into_owned(),
            protocol_number: packet.protocol,
            source: packet.source.to_string(),
            destination: packet.destination.to_string(),
            source_port: None,
            destination_port: None,
            tcp_flags: None,
            icmp_type: None,
            icmp_code: None,
            fragment_offset: None,
        };
        match packet.transport {
            Transport::LaterFragment { offset_bytes } => object.fragment_offset = Some(offset_bytes),
            Transport::Tcp {
                source,
                destination,
                flags,
            } => {
                object.source_port = Some(source);
                object.destination_port = Some(destination);
                object.tcp_flags = Some(tcp_flag_names(flags).collect());
            }
            Transport::Ports { source, destination } => {
                object.source_port = Some(source);
                object.destination_port = Some(destination);
            }
            Transport::Icmp { kind, code } => {
                object.icmp_type = Some(kind);
                object.icmp_code = Some(code);
            }
            Transport::Other => {}
        }
        object
    }
}

impl<'a> OutcomeObject<'a> {
    fn of(journey: &'a Journey) -> Self {
        let (fate, function, queue) = match &journey.outcome {
            Outcome::Dropped { rejected: true, .. } => ("rejected", None, None),
            Outcome::Dropped { .. } => ("dropped", None, None),
            Outcome::DroppedByHook { function, .. } => ("dropped_by_hook", Some(function.as_str()), None),
            Outcome::DroppedByKernel { function } => ("dropped_by_kernel", function.as_deref(), None),
            Outcome::Delivered => ("delivered", None, None),
            Outcome::Sent => ("sent", None, None),
            Outcome::Stolen => ("stolen", None, None),
            Outcome::Queued { number } => ("queued", None, Some(*number)),
            Outcome::Passed => ("passed", None, None),
            Outcome::Accepted => ("unknown", None, None),
        };
        Self {
            verdict: journey.outcome.word(),
            fate,
            text: words::fate(journey),
            rule: journey.dropped_by().as_ref().map(RuleObject::of),
            function,
            queue,
            leaves_as: words::leaves_as(journey).as_ref().map(PacketObject::of),
        }
    }
}

/// The family of a table of nf_tables, as `nft` says it.
fn family_of(backend: Backend) -> Option<String> {
    backend.table_family().map(|family| family.to_string())
}

impl RuleObject {
    fn of(rule: &RuleRef) -> Self {
        Self {
            backend: rule.backend.to_string(),
            table_family: family_of(rule.backend),
            rule: rule.label.clone(),
            text: rule.text.as_deref().map(str::to_owned),
        }
    }
}

impl<'a> TableObject<'a> {
    fn of(passage: &'a Passage, context: &Context) -> Self {
        fn name(device: &Option<Device>) -> Option<&str> {
            device.as_ref().map(|device| device.name.as_str())
        }
        fn peer(device: &Option<Device>) -> Option<&str> {
            device.as_ref()?.peer.as_deref()
        }
        let traversal = &passage.traversal;
        Self {
            time: context.clock.utc(traversal.entered_ns),
            duration_ns: passage.duration_ns(),
            node: traversal.node.as_deref(),
            netns: traversal.netns,
            netns_name: traversal.netns_name.as_deref(),
            backend: passage.backend.to_string(),
            table_family: family_of(passage.backend),
            family: match traversal.family {
                Family::Ipv4 => "ipv4",
                Family::Ipv6 => "ipv6",
            },
            table: &traversal.table,
            chain: &passage.chain,
            hook: traversal.hook.to_string(),
            r#in: name(&traversal.in_device),
            in_peer: peer(&traversal.in_device),
            out: name(&traversal.out_device),
            out_peer: peer(&traversal.out_device),
            port_in: name(&traversal.port_in),
            port_in_peer: peer(&traversal.port_in),
            port_out: name(&traversal.port_out),
            port_out_peer: peer(&traversal.port_out),
            verdict: traversal.verdict.to_string(),
            conntrack: match traversal.conntrack {
                Conntrack::None | Conntrack::Orphaned => ConntrackObject {
                    state: "none".to_owned(),
                    reply: None,
                    mark: None,
                },
                Conntrack::Untracked => ConntrackObject {
                    state: "UNTRACKED".to_owned(),
                    reply: None,
                    mark: None,
                },
                Conntrack::Tracked {
                    state, reply, mark, ..
                } => ConntrackObject {
                    state: state.to_string(),
                    reply: Some(reply),
                    mark: Some(mark),
                },
            },
            mark: traversal.mark_before,
            mark_after: traversal.mark_after,
            owner: traversal.owner.map(|owner| OwnerObject {
                uid: owner.uid,
                gid: owner.gid,
            }),
            packet: Packet::parse(&traversal.headers).map(|packet| packet.to_string()),
            steps: passage.steps.iter().map(StepObject::of).collect(),
            dropped_by_match_of: passage.hotdrop.as_ref().map(|hotdrop| RuleObject {
                backend: passage.backend.to_string(),
                table_family: family_of(passage.backend),
                rule: format!("{}:{}", traversal.table, hotdrop.label),
                text: hotdrop.text.as_deref().map(str::to_owned),
            }),
            partial: passage.partial.as_deref(),
        }
    }
}

impl<'a> StepObject<'a> {
    fn of(step: &'a Step) -> Self {
        Self {
            rule: step.label(),
            chain: &step.chain,
            kind: step.kind.to_string(),
            number: step.number,
            handle: step.handle,
            text: step.text.as_deref(),
            action: step.action.to_string(),
            depth: step.depth,
            mark: step.mark,
            mark_after: step.mark_after,
            meaning: step.meaning.as_deref(),
        }
    }
}

impl<'a> ChangeObject<'a> {
    fn of(change: &'a Change) -> Self {
        let (by, decided) = match &change.by {
            By::Step => ("step", None),
            By::Table => ("table", None),
            By::Nat {
                undone: false,
                decided,
            } => ("nat", decided.as_deref()),
            By::Nat {
                undone: true,
                decided,
            } => ("nat_undone", decided.as_deref()),
            By::Forwarding => ("forwarding", None),
            By::Namespace => ("namespace", None),
            By::Node => ("node", None),
            By::Unknown => ("unknown", None),
        };
        Self {
            what: change.what.name(),
            before: change.what.before(),
            after: change.what.after(),
            by,
            table: change.passage,
            step: change.step,
            decided_by: decided.map(DecidedObject::of),
        }
    }
}

impl<'a> DecidedObject<'a> {
    fn of(decided: &'a crate::journey::Decided) -> Self {
        Self {
            backend: decided.rule.backend.to_string(),
            table_family: family_of(decided.rule.backend),
            rule: &decided.rule.label,
            text: decided.rule.text.as_deref(),
            journey: decided.journey,
        }
    }
}

impl<'a> FlowObject<'a> {
    fn of(flow: &'a Flow, journey: &'a Journey) -> Self {
        let mut traversals = journey.passages.iter().map(|passage| &passage.traversal);
        let on_node = traversals.find(|traversal| traversal.packet.recording() == flow.recording);
        Self {
            number: flow.number,
            node: on_node.and_then(|traversal| traversal.node.as_deref()),
            netns: flow.netns,
            direction: if flow.reply { "reply" } else { "original" },
            state: flow.state.to_string(),
            original: TupleObject::of(&flow.connection.original),
            reply: TupleObject::of(&flow.connection.reply),
            dnat: flow.dnat.as_deref().map(DecidedObject::of),
            snat: flow.snat.as_deref().map(DecidedObject::of),
        }
    }
}

impl TupleObject {
    fn of(tuple: &Tuple) -> Self {
        Self {
            protocol_number: tuple.protocol,
            source: tuple.source.to_string(),
            destination: tuple.destination.to_string(),
            source_port: tuple.source().port,
            destination_port: tuple.destination().port,
        }
    }
}
