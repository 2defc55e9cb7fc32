//! The comments and blank lines of a file, each with the node that it stands at.
//!
//! A comment on a line of its own belongs to the next node that begins a line, one beside a value to the first node of its
//! line. Where that node is gone, the next one takes it.

use std::collections::{BTreeMap, HashMap, HashSet};

use granit_parser::{Event, Parser, options};

use super::emit::{entry_place, item_place};
use super::tree::{Kind, Node, Origin};

/// What stands above and beside nodes, by the place where the node begins.
pub(super) struct Comments {
    above: HashMap<u32, Vec<String>>,
    beside: HashMap<u32, String>,
    footer: Vec<String>,
    /// No anchors, aliases or tags: a piece of the text means the same elsewhere.
    pub(super) plain_text: bool,
}

/// The lines of a file that are of interest.
struct Lines {
    /// The first node of each line.
    nodes: BTreeMap<usize, u32>,
    /// Lines inside a text of several lines.
    texts: HashSet<usize>,
}

impl Comments {
    pub(super) fn read(source: &str, root: &Node) -> Self {
        let (remarks, plain_text) = remarks(source);
        let starts: Vec<usize> =
            std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut lines = Lines { nodes: BTreeMap::new(), texts: HashSet::new() };
        lines.visit(source, &starts, root);
        let mut found =
            Self { above: HashMap::new(), beside: HashMap::new(), footer: Vec::new(), plain_text };
        let mut waiting = Vec::new();
        for (number, text) in source.split('\n').enumerate() {
            let text = text.trim_end();
            let node = lines.nodes.get(&number).copied();
            let remark = remarks.get(&number);
            if lines.texts.contains(&number) && node.is_none() {
                continue;
            }
            match (node, remark) {
                (Some(node), remark) => {
                    if !waiting.is_empty() {
                        found.above.insert(node, std::mem::take(&mut waiting));
                    }
                    if let Some(remark) = remark {
                        found.beside.insert(node, remark.clone());
                    }
                }
                (None, Some(remark)) => waiting.push(remark.clone()),
                (None, None) if text.is_empty() => waiting.push(String::new()),
                (None, None) if lines.first() > number && (text == "---" || text.starts_with('%')) => {
                    waiting.push(text.to_owned());
                }
                (None, None) => {}
            }
        }
        while waiting.last().is_some_and(String::is_empty) {
            waiting.pop();
        }
        found.footer = waiting;
        found
    }

    /// The lines above a node, once.
    pub(super) fn above(&mut self, place: u32) -> Vec<String> {
        self.above.remove(&place).unwrap_or_default()
    }

    /// The comment beside a node, once.
    pub(super) fn beside(&mut self, place: u32) -> Option<String> {
        self.beside.remove(&place)
    }

    /// What has not been given out yet, in the order of the file.
    pub(super) fn rest(&mut self) -> Vec<String> {
        let above = self.above.drain().map(|(place, lines)| ((place, 0), lines));
        let mut rest: Vec<_> = above.collect();
        rest.extend(self.beside.drain().map(|(place, remark)| ((place, 1), vec![remark])));
        rest.sort();
        let lines = rest.into_iter().flat_map(|(_, lines)| lines).filter(|line| line.starts_with('#'));
        lines.chain(std::mem::take(&mut self.footer)).collect()
    }
}

impl Lines {
    fn first(&self) -> usize {
        self.nodes.keys().next().copied().unwrap_or_default()
    }

    fn visit(&mut self, source: &str, starts: &[usize], node: &Node) {
        match &node.kind {
            Kind::Scalar(_) if node.origin != Origin::Source => {}
            Kind::Scalar(_) => {
                let (start, end) = (node.span.start as usize, node.span.end as usize);
                let text = source.get(start..end).unwrap_or_default().trim_end();
                let first = line(starts, start);
                self.texts.extend(first + 1..=first + text.matches('\n').count());
            }
            Kind::List(items) => {
                for item in items {
                    self.node(starts, item_place(item));
                    self.visit(source, starts, item);
                }
            }
            Kind::Map(entries) => {
                for entry in entries {
                    self.node(starts, entry_place(entry));
                    self.visit(source, starts, &entry.value);
                }
            }
        }
    }

    fn node(&mut self, starts: &[usize], place: Option<u32>) {
        let Some(place) = place else { return };
        let first = self.nodes.entry(line(starts, place as usize)).or_insert(place);
        *first = place.min(*first);
    }
}

/// The line of a byte, counted from 0.
fn line(starts: &[usize], at: usize) -> usize {
    starts.partition_point(|start| *start <= at).saturating_sub(1)
}

/// The comments by line, and whether the file has neither anchors nor aliases nor tags.
fn remarks(source: &str) -> (HashMap<usize, String>, bool) {
    let (mut remarks, mut plain) = (HashMap::new(), true);
    let parser = Parser::new_from_str_with_options(source, options! { emit_comments: true });
    for event in parser {
        let Ok((event, span)) = event else { break };
        match event {
            Event::Comment(text, _) => {
                remarks.insert(span.start.line().saturating_sub(1), format!("#{}", text.trim_end()));
            }
            Event::Alias(_) => plain = false,
            Event::Scalar(_, _, anchor, tag) => plain &= anchor == 0 && tag.is_none(),
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => {
                plain &= anchor == 0 && tag.is_none();
            }
            _ => {}
        }
    }
    (remarks, plain)
}
