//! Each packet's way as a flowchart of Mermaid, in a fence as Markdown has it: paste it into an issue or a page, and
//! it is drawn.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{
    Output,
    way::{Node, way},
    words::{fate, printable},
};
use crate::{journey::Journey, packet::Packet};

pub(super) struct Mermaid {
    writer: Box<dyn Write>,
}

impl Mermaid {
    pub(super) fn new(writer: Box<dyn Write>) -> Self {
        Self { writer }
    }
}

impl Output for Mermaid {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        self.writer.write_all(render(journey).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn render(journey: &Journey) -> String {
    let packet = Packet::parse(&journey.first().traversal.headers);
    let packet = packet.map_or_else(
        || "(no readable IP header)".to_owned(),
        |packet| packet.to_string(),
    );
    // Writing to a string cannot fail.
    let mut text = String::from("```mermaid\nflowchart TD\n");
    let _ = writeln!(
        text,
        "  start([\"{}\"])",
        label(&format!("#{} {packet}", journey.number))
    );
    let mut from = "start".to_owned();
    let way = way(journey);
    for (number, node) in way.nodes.iter().enumerate() {
        let id = format!("n{number}");
        arrow(&mut text, &from, &id, node.notes_before());
        let _ = match node {
            Node::Device { name, .. } => writeln!(text, "  {id}{{{{\"{}\"}}}}", label(name)),
            Node::Chain {
                table,
                chain,
                meaning,
                ..
            } => {
                let meaning = meaning
                    .as_deref()
                    .map(|meaning| format!("<br/><i>{}</i>", label(meaning)));
                writeln!(
                    text,
                    "  {id}[\"{}{}\"]",
                    label(&format!("{table}: {chain}")),
                    meaning.unwrap_or_default()
                )
            }
        };
        from = id;
    }
    let by = journey.dropped_by().map(|rule| format!(" by {rule}"));
    let end = format!("{}{}", fate(journey), by.unwrap_or_default());
    arrow(&mut text, &from, "stop", &way.after);
    let _ = writeln!(text, "  stop([\"{}\"])", label(&end));
    for (number, why) in journey.partial.iter().enumerate() {
        let _ = writeln!(
            text,
            "  partial{number}>\"{}\"]",
            label(&format!("partial: {why}"))
        );
    }
    text.push_str("```\n\n");
    text
}

fn arrow(text: &mut String, from: &str, to: &str, notes: &[String]) {
    let _ = if notes.is_empty() {
        writeln!(text, "  {from} --> {to}")
    } else {
        let notes: Vec<String> = notes.iter().map(|note| label(note)).collect();
        writeln!(text, "  {from} -- \"{}\" --> {to}", notes.join("<br/>"))
    };
}

/// Text within quotes: Mermaid takes entities of HTML with `#` for `&`, and nothing else would be safe.
fn label(text: &str) -> String {
    let mut label = String::new();
    for c in printable(text).chars() {
        match c {
            '"' => label.push_str("#quot;"),
            '#' => label.push_str("#35;"),
            '<' => label.push_str("#lt;"),
            '>' => label.push_str("#gt;"),
            '&' => label.push_str("#amp;"),
            '`' => label.push_str("#96;"),
            c => label.push(c),
        }
    }
    label
}
