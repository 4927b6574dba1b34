//! The packets for Wireshark and tshark: one for each hook that a packet passed, as it was when it came there, with
//! its path through the tables as comment (`frame.comment`).
//!
//! As much of a packet is there as was recorded, its headers; the length is that of the whole packet. Each device of
//! each network namespace is an interface of its own.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use super::{
    Context, Output,
    words::{fate, printable},
};
use crate::{
    journey::{Journey, Station},
    passage::Passage,
};

/// Interfaces that are told apart; what more there are share the last.
const INTERFACES_MAX: usize = 4096;
/// Bytes of a comment: an option's length is 16 bits, and a path that long is no help.
const COMMENT_LEN_MAX: usize = 32_768;

pub(super) struct Pcapng {
    writer: PcapNgWriter<Box<dyn Write>>,
    context: Context,
    interfaces: HashMap<(u32, u32, String), u32>,
}

impl Pcapng {
    pub(super) fn new(writer: Box<dyn Write>, context: Context) -> io::Result<Self> {
        Ok(Self {
            writer: PcapNgWriter::with_endianness(writer, Endianness::native()).map_err(io_error)?,
            context,
            interfaces: HashMap::new(),
        })
    }

    /// The number of a station's interface; one that is new is described first.
    fn interface(&mut self, station: &Station) -> io::Result<u32> {
        let Station { recording, netns, .. } = *station;
        let device = station.in_device.as_ref().or(station.out_device.as_ref());
        let name = device.map_or("none", |device| device.name.as_str());
        let key = (recording, netns, name.to_owned());
        if let Some(number) = self.interfaces.get(&key) {
            return Ok(*number);
        }
        if self.interfaces.len() >= INTERFACES_MAX {
            return Ok(0);
        }
        let mut name = printable(name);
        if let Some(node) = &station.node {
            name = format!("{}: {name}", printable(node));
        }
        if !self.context.homes.has(recording, netns) {
            // Writing to a string cannot fail.
            let _ = write!(name, " netns={netns}");
        }
        let peer = device.and_then(|device| device.peer.as_deref());
        let peer = peer.map(|peer| InterfaceDescriptionOption::IfDescription(printable(peer).into()));
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: [
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                // Times are nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ]
            .into_iter()
            .chain(peer)
            .collect(),
        };
        self.write(block)?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(key, number);
        Ok(number)
    }

    fn write<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        self.writer.write_pcapng_block(block).map(drop).map_err(io_error)
    }

    fn station(&mut self, journey: &Journey, station: &Station, last: bool) -> io::Result<()> {
        let passages = &journey.passages[station.passages.clone()];
        let Some(first) = passages.first() else {
            return Ok(());
        };
        let traversal = &first.traversal;
        let interface_id = self.interface(station)?;
        let ns = i128::from(self.context.clock.offset_ns()) + i128::from(traversal.entered_ns);
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(u64::try_from(ns).unwrap_or(0)),
            original_len: traversal.packet_len,
            data: Cow::Borrowed(
                &traversal.headers[..traversal.headers.len().min(traversal.packet_len as usize)],
            ),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment(
                journey, station, passages, last,
            )))],
        };
        self.write(block)
    }
}

impl Output for Pcapng {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        let stations = journey.stations();
        for (index, station) in stations.iter().enumerate() {
            self.station(journey, station, index + 1 == stations.len())?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// The path at one hook, a line for each step, and at the last hook what became of the packet.
fn comment(journey: &Journey, station: &Station, passages: &[Passage], last: bool) -> String {
    let mut text = format!("tracer #{} {}", journey.number, station.hook);
    // Writing to a string cannot fail.
    for (index, passage) in station.passages.clone().zip(passages) {
        let traversal = &passage.traversal;
        let table = printable(&traversal.table_in_words());
        let _ = write!(
            text,
            "\n{table}:{} {}",
            printable(&passage.chain),
            traversal.verdict
        );
        for (place, step) in passage.steps.iter().enumerate() {
            let _ = write!(text, "\n  {table}:{}", printable(&step.label()));
            if let Some(rule) = &step.text {
                let _ = write!(text, "  {}", printable(rule));
            }
            let mut changes = journey.changes.iter();
            for change in changes
                .by_ref()
                .filter(|change| change.passage == index && change.step == Some(place))
            {
                let _ = write!(text, "  [{}]", change.what);
            }
        }
        if let Some(why) = &passage.partial {
            let _ = write!(text, "\n  partial: {}", printable(why));
        }
    }
    if last {
        let _ = write!(text, "\n= {}", fate(journey));
        if let Some(rule) = journey.dropped_by() {
            let _ = write!(text, " by {}", printable(&rule.to_string()));
        }
    }
    let mut end = text.len().min(COMMENT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
