//! A drawing of each packet's way from chain to chain, as people draw it by hand:
//!
//! ```text
//! #1 TCP 192.168.199.132:50995 > 192.168.199.119:32741 SYN
//!
//!   --> enp0s3
//!       |
//!       V
//!   [nat] PREROUTING
//!       |  rule 1
//!       V
//!   [nat] KUBE-SERVICES  (looks for the service)
//!       |
//!       V
//!   [nat] KUBE-SEP-PJQYOXMI5CEBVECW  (endpoint 192.168.3.4:80 of default/nginx)
//!       |  rule 2: DNAT, destination 192.168.199.119:32741>192.168.3.4:80
//!       V
//!   cni0 -->
//! ```

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{
    Context, Output,
    layout::shortened,
    way::{Node, way},
    words::{fate, printable},
};
use crate::{journey::Journey, packet::Packet};

pub(super) struct Diagram {
    writer: Box<dyn Write>,
    context: Context,
}

impl Diagram {
    pub(super) fn new(writer: Box<dyn Write>, context: Context) -> Self {
        Self { writer, context }
    }
}

impl Output for Diagram {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        self.writer
            .write_all(render(journey, self.context.screen.columns()).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn render(journey: &Journey, width: Option<usize>) -> String {
    let mut text = String::new();
    let fit = |line: String| match width {
        Some(width) => shortened(&line, width),
        None => line,
    };
    let packet = Packet::parse(&journey.first().traversal.headers);
    let packet = packet.map_or_else(
        || "(no readable IP header)".to_owned(),
        |packet| packet.to_string(),
    );
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}\n", fit(format!("#{} {packet}", journey.number)));
    let arrow = |text: &mut String, notes: &[String]| {
        text.push_str("      |\n");
        for note in notes {
            let _ = writeln!(text, "{}", fit(format!("      |  {}", printable(note))));
        }
        text.push_str("      V\n");
    };
    let way = way(journey);
    for (number, node) in way.nodes.iter().enumerate() {
        if number > 0 || !node.notes_before().is_empty() {
            arrow(&mut text, node.notes_before());
        }
        let line = match node {
            Node::Device { name, into: true, .. } => format!("  --> {name}"),
            Node::Device { name, .. } => format!("  {name} -->"),
            Node::Chain {
                table,
                chain,
                meaning,
                ..
            } => {
                let meaning = meaning.as_deref().map(|meaning| format!("  ({meaning})"));
                format!("  [{table}] {chain}{}", meaning.unwrap_or_default())
            }
        };
        let _ = writeln!(text, "{}", fit(printable(&line)));
    }
    if !way.after.is_empty() {
        arrow(&mut text, &way.after);
    }
    let by = journey.dropped_by().map(|rule| format!(" by {rule}"));
    let end = format!("  = {}{}", fate(journey), by.unwrap_or_default());
    let _ = writeln!(text, "{}", fit(printable(&end)));
    for why in &journey.partial {
        let _ = writeln!(text, "{}", fit(format!("  partial: {}", printable(why))));
    }
    text.push('\n');
    text
}
