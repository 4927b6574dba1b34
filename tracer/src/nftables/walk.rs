//! From the steps that the kernel reported to a path through the rules: `nft_do_chain`,
//! `net/netfilter/nf_tables_core.c`, followed backwards.
//!
//! Nothing is computed that the kernel did not say; but everything it said must fit: a rule must be in the chain that
//! the packet is in, after the one before it, and the last step must give the verdict that the kernel returned.

use std::sync::Arc;

use thiserror::Error;

use super::expression::code;
use super::model::{Base, Chain, Rule, Statement, Table};
use crate::{
    passage::{Action, Step},
    ruleset::Kind,
    traversal::{Traversal, Verdict},
};

/// What the kernel reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub what: What,
    /// The packet's mark afterwards; `None` where the packet was gone.
    pub mark: Option<u32>,
}

/// See [`Event::what`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A rule matched.
    Rule {
        /// Its handle.
        handle: u64,
        /// The code of its verdict: `NFT_CONTINUE`, `NFT_JUMP`, …, or a verdict of netfilter.
        code: i32,
    },
    /// A chain ended without a verdict.
    ChainEnd {
        /// Its handle.
        handle: u64,
    },
    /// The policy of the base chain decides.
    Policy,
}

/// Why a path is not certain.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Doubt {
    /// The rules that were read have no such table, or it has another name.
    #[error("table {0} is not among the rules that were read")]
    NoTable(String),
    /// The table has no such base chain.
    #[error("chain {0} is not among the rules that were read")]
    NoChain(String),
    /// A handle that the rules do not have.
    #[error("rule {0:#x} is not among the rules that were read")]
    NoRule(u64),
    /// A rule that is not where the packet was.
    #[error("rule {handle:#x} was met out of order in chain {chain}")]
    OutOfOrder {
        /// The rule.
        handle: u64,
        /// Where the packet was.
        chain: String,
    },
    /// A chain ended that the packet was not in.
    #[error("chain {0} did not end where it should have")]
    OtherEnd(String),
    /// A step after the last, or none where there should be one.
    #[error("steps are missing after {0}")]
    Missing(String),
    /// The verdict is not that of the last step.
    #[error("the kernel's verdict is {returned}, the last step's {stepped}")]
    Verdict {
        /// What `nft_do_chain` returned.
        returned: Verdict,
        /// What the steps say.
        stepped: Verdict,
    },
    /// A rule that did not match may have set the mark before, and the next one that did match may have, too.
    #[error("rule {0:#x} may have set the mark before it turned out not to match")]
    MarkedOnTheWay(u64),
    /// Records of the traversal were lost.
    #[error("steps were lost on their way from the kernel")]
    Lost,
}

/// The path of a traversal through a table. Steps that are certain come with a doubt that begins after them.
#[must_use]
pub fn walk(table: &Table, traversal: &Traversal) -> (Vec<Step>, Option<Doubt>) {
    let Some(base) = table.chain_of(traversal.chain_handle) else {
        return (Vec::new(), Some(Doubt::NoChain(traversal.chain.clone())));
    };
    let mut walk = Walk {
        table,
        iptables: table.is_iptables(),
        base,
        at: Some((base, 0)),
        pending: Vec::new(),
        ended: None,
        mark: traversal.mark_before,
        marked_by: None,
        headers: traversal.headers.as_slice().into(),
        packet_len: traversal.packet_len,
        told: Told::of(traversal),
        doubt: None,
        steps: Vec::with_capacity(traversal.events.len()),
    };
    let walked = walk.run(&traversal.events, traversal.verdict);
    let doubt = if traversal.observed_cut {
        Some(Doubt::Lost)
    } else {
        walked.err().or(walk.doubt)
    };
    (walk.steps, doubt)
}

/// A packet's headers, and its length.
type Packet = (Arc<[u8]>, u32);

/// What the programs told of headers that changed; nothing of it was lost.
struct Told<'a>(&'a Traversal);

impl<'a> Told<'a> {
    fn of(traversal: &'a Traversal) -> Option<Self> {
        let is_whole = traversal.changed_told.map(usize::from) == Some(traversal.changed.len());
        // Where steps are missing nobody knows which is which.
        (is_whole && !traversal.observed_cut).then_some(Self(traversal))
    }

    /// The headers after a step that left the packet there, and its length: from the first change on they come with each.
    fn after(&self, index: usize) -> Packet {
        let Self(traversal) = self;
        let mut changed = traversal.changed.iter().rev();
        match changed.find(|changed| usize::from(changed.observed) <= index) {
            None => (traversal.headers.as_slice().into(), traversal.packet_len),
            Some(changed) if changed.packet_len == traversal.packet_len => {
                // What lies beyond the linear part was not sent again: whoever writes there makes it linear.
                let beyond = traversal.headers.get(changed.bytes.len()..);
                let bytes = changed.bytes.iter().chain(beyond.unwrap_or_default());
                (bytes.copied().collect(), changed.packet_len)
            }
            Some(changed) => (Arc::clone(&changed.bytes), changed.packet_len),
        }
    }
}

struct Walk<'a> {
    table: &'a Table,
    iptables: bool,
    base: usize,
    /// The chain and the place of the next rule in it; `None` once only the policy is left.
    at: Option<(usize, usize)>,
    /// Where jumps are to be returned to.
    pending: Vec<(usize, usize)>,
    ended: Option<Verdict>,
    mark: u32,
    /// A rule that may have set the mark since.
    marked_by: Option<u64>,
    headers: Arc<[u8]>,
    packet_len: u32,
    told: Option<Told<'a>>,
    /// What makes the packet, though not its way, uncertain.
    doubt: Option<Doubt>,
    steps: Vec<Step>,
}

impl Walk<'_> {
    fn run(&mut self, events: &[Event], returned: Verdict) -> Result<(), Doubt> {
        for (index, event) in events.iter().enumerate() {
            if self.ended.is_some() {
                return Err(Doubt::Missing(self.last()));
            }
            // Nobody looked at a packet that was gone.
            let told = self.told.as_ref().filter(|_| event.mark.is_some());
            let after = told.map(|told| told.after(index));
            match event.what {
                What::Rule { handle, code } => {
                    self.rule(handle, code, event.mark, after.as_ref(), events.get(index + 1))?;
                }
                What::ChainEnd { handle } => self.chain_end(handle, event.mark, after.as_ref())?,
                What::Policy => self.policy(event.mark)?,
            }
            self.know(after.as_ref());
            self.mark = event.mark.unwrap_or(self.mark);
            self.marked_by = None;
        }
        match self.ended {
            Some(stepped) if stepped == returned => Ok(()),
            Some(stepped) => Err(Doubt::Verdict { returned, stepped }),
            None => Err(Doubt::Missing(self.last())),
        }
    }

    fn last(&self) -> String {
        self.steps
            .last()
            .map_or_else(|| "the start".to_owned(), Step::label)
    }

    fn rule(
        &mut self,
        handle: u64,
        code: i32,
        mark: Option<u32>,
        after: Option<&Packet>,
        next: Option<&Event>,
    ) -> Result<(), Doubt> {
        let Some(&(chain, place)) = self.table.places.get(&handle) else {
            return Err(Doubt::NoRule(handle));
        };
        match self.at {
            Some((at, from)) if at == chain && place >= from => self.pass_over(chain, from..place),
            at => {
                let at = at.map_or(self.base, |(at, _)| at);
                return Err(Doubt::OutOfOrder {
                    handle,
                    chain: self.table.chains[at].name.clone(),
                });
            }
        }
        let table = self.table;
        let rule = &table.chains[chain].rules[place];
        let action = self.action(rule, code, next)?;
        let kind = match (self.iptables && rule.is_tail, self.table.chains[chain].base) {
            (true, Some(_)) => Kind::Policy,
            (true, None) => Kind::Return,
            (false, _) => Kind::Rule,
        };
        let number = u32::try_from(place + 1).ok();
        match self.marked_by {
            None => {}
            Some(by) if rule.changes.mark => {
                self.doubt.get_or_insert(Doubt::MarkedOnTheWay(by));
            }
            // It was the other one.
            Some(_) => self.mark = mark.unwrap_or(self.mark),
        }
        // Changed on the way by a rule that did not match. A target or statement that decides may have changed them again.
        let is_told = code < 0 || !matches!(rule.statement, Statement::Named(_));
        if self.headers.is_empty() && is_told && !rule.changes.headers {
            self.know(after);
        }
        self.step(chain, kind, number, Some(handle), action.clone(), mark);
        if rule.changes.headers {
            self.headers = [].into();
        }
        match action {
            Action::Jump(to) => {
                self.pending.push((chain, place + 1));
                self.enter(&to)?;
            }
            Action::Goto(to) => self.enter(&to)?,
            Action::Return => self.at = self.pending.pop(),
            Action::Verdict(verdict)
            | Action::Target {
                verdict: Some(verdict),
                ..
            } => self.ended = Some(verdict),
            Action::Continue | Action::Target { verdict: None, .. } => self.at = Some((chain, place + 1)),
        }
        Ok(())
    }

    /// Takes the headers after a step that changes none: whatever changed them came before.
    fn know(&mut self, after: Option<&Packet>) {
        if let Some((headers, packet_len)) = after {
            (self.headers, self.packet_len) = (Arc::clone(headers), *packet_len);
        }
    }

    fn enter(&mut self, chain: &str) -> Result<(), Doubt> {
        let found = self.table.chain_named(chain);
        self.at = Some((found.ok_or_else(|| Doubt::NoChain(chain.to_owned()))?, 0));
        Ok(())
    }

    /// What the rule did, from what the kernel said of it and from what it says itself.
    fn action(&self, rule: &Rule, verdict: i32, next: Option<&Event>) -> Result<Action, Doubt> {
        let name = match &rule.statement {
            Statement::Named(name) => Some(name.as_str().into()),
            Statement::Nothing | Statement::Chain(_) | Statement::Verdict => None,
        };
        Ok(match verdict {
            code::CONTINUE => match name {
                Some(name) => Action::Target { name, verdict: None },
                None => Action::Continue,
            },
            code::RETURN => Action::Return,
            code::JUMP | code::GOTO => {
                let chain = match &rule.statement {
                    Statement::Chain(chain) => chain.as_str(),
                    // A verdict map: the chain is the one that the next step is in.
                    _ => self.chain_of(next).ok_or_else(|| Doubt::Missing(self.last()))?,
                };
                if verdict == code::JUMP {
                    Action::Jump(chain.into())
                } else {
                    Action::Goto(chain.into())
                }
            }
            other => {
                let verdict = Verdict::from(other.cast_unsigned());
                match name {
                    Some(name) => Action::Target {
                        name,
                        verdict: Some(verdict),
                    },
                    None => Action::Verdict(verdict),
                }
            }
        })
    }

    /// The chain that an event happened in.
    fn chain_of(&self, event: Option<&Event>) -> Option<&str> {
        let chain = match event?.what {
            What::Rule { handle, .. } => self.table.places.get(&handle)?.0,
            What::ChainEnd { handle } => self.table.chain_of(handle)?,
            What::Policy => return None,
        };
        Some(&self.table.chains[chain].name)
    }

    fn chain_end(&mut self, handle: u64, mark: Option<u32>, after: Option<&Packet>) -> Result<(), Doubt> {
        let at = self
            .at
            .filter(|(chain, _)| self.table.chains[*chain].handle == handle);
        let Some((chain, from)) = at else {
            let name = self
                .table
                .chain_of(handle)
                .map(|chain| &self.table.chains[chain].name);
            return Err(Doubt::OtherEnd(
                name.map_or_else(|| format!("{handle:#x}"), Clone::clone),
            ));
        };
        let len = self.table.chains[chain].rules.len();
        self.pass_over(chain, from..len);
        // Where a chain ends nothing sets it.
        self.mark = mark.unwrap_or(self.mark);
        self.know(after);
        // Where iptables' base chain ends TRACE has one line, the policy's.
        if !(self.iptables && self.pending.is_empty() && chain == self.base) {
            let number = self.end_number(chain);
            self.step(chain, Kind::Return, number, None, Action::Return, mark);
        }
        self.at = self.pending.pop();
        Ok(())
    }

    fn policy(&mut self, mark: Option<u32>) -> Result<(), Doubt> {
        let chain = &self.table.chains[self.base];
        let (None, Some(Base { policy, .. })) = (self.at, chain.base) else {
            return Err(Doubt::OtherEnd(chain.name.clone()));
        };
        let number = self.end_number(self.base);
        self.step(
            self.base,
            Kind::Policy,
            number,
            None,
            Action::Verdict(policy),
            mark,
        );
        self.ended = Some(policy);
        Ok(())
    }

    /// iptables counts the end of a chain as one rule more.
    fn end_number(&self, chain: usize) -> Option<u32> {
        let number = u32::try_from(self.table.chains[chain].rules.len() + 1).ok();
        number.filter(|_| self.iptables)
    }

    /// Rules that did not match.
    fn pass_over(&mut self, chain: usize, places: std::ops::Range<usize>) {
        for rule in &self.table.chains[chain].rules[places] {
            if rule.changes_on_the_way.headers {
                self.headers = [].into();
            }
            if rule.changes_on_the_way.mark {
                self.marked_by = Some(rule.handle);
            }
        }
    }

    fn step(
        &mut self,
        chain: usize,
        kind: Kind,
        number: Option<u32>,
        handle: Option<u64>,
        action: Action,
        mark: Option<u32>,
    ) {
        let Chain { name, .. } = &self.table.chains[chain];
        self.steps.push(Step {
            chain: name.as_str().into(),
            kind,
            number,
            handle,
            text: None,
            action,
            depth: u16::try_from(self.pending.len()).unwrap_or(u16::MAX),
            mark: self.mark,
            mark_after: mark,
            headers: Arc::clone(&self.headers),
            packet_len: self.packet_len,
            meaning: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tracer_common::{
        BACKEND_NFTABLES, HeadersAfter, Observed, Traversal as Record, flags, kind, nft_step,
    };

    use super::super::model::{Changes, Family, Ruleset};
    use super::*;
    use crate::{changed::Changed, traversal::Hook};

    const CHAIN: u64 = 9;
    const TTL_SET: u64 = 2;

    /// `INPUT`, whose second rule sets the TTL, maybe before it asks for something else.
    fn table(on_the_way: bool) -> Table {
        let rule = |handle| Rule {
            handle,
            is_tail: false,
            statement: Statement::Nothing,
            changes: Changes {
                mark: false,
                headers: handle == TTL_SET,
            },
            changes_on_the_way: Changes {
                mark: false,
                headers: on_the_way && handle == TTL_SET,
            },
            key: Vec::new(),
            text: String::new(),
        };
        let table = Table {
            family: Family::Ip,
            name: "mangle".into(),
            handle: 1,
            chains: vec![Chain {
                name: "INPUT".into(),
                handle: CHAIN,
                base: Some(Base {
                    hook: Hook::LocalIn,
                    priority: -150,
                    policy: Verdict::Accept,
                }),
                rules: [1, TTL_SET, 3].map(rule).into(),
            }],
            places: HashMap::new(),
        };
        let mut ruleset = Ruleset { tables: vec![table] };
        ruleset.find_places();
        ruleset.tables.remove(0)
    }

    /// All three rules matched, and the policy accepts; the program says of so many headers that it sent them.
    fn traversal(told: Option<u16>) -> Traversal {
        let matched = [(1, code::CONTINUE), (2, code::CONTINUE), (3, code::CONTINUE)];
        let step = |(handle, code): (u32, i32)| step(handle, code, 0);
        let mut steps = matched.map(step).to_vec();
        steps.push(self::step(9, code::CONTINUE, nft_step::CHAIN_END));
        steps.push(self::step(0, code::CONTINUE, nft_step::POLICY));
        traversal_of(told, 1, &steps)
    }

    fn step(data: u32, code: i32, flags: u32) -> Observed {
        Observed {
            data,
            returned: code.cast_unsigned(),
            mark: 0,
            flags,
        }
    }

    fn traversal_of(told: Option<u16>, verdict: u32, steps: &[Observed]) -> Traversal {
        let mut record = Record {
            family: 2,
            hook: 1,
            backend: BACKEND_NFTABLES,
            skb: 7,
            chain_handle: CHAIN,
            verdict,
            packet_len: 40,
            headers_len: 3,
            observed_len: steps.len().try_into().unwrap(),
            changed: told.unwrap_or_default(),
            flags: if told.is_some() { flags::HEADERS_TOLD } else { 0 },
            ..Record::EMPTY
        };
        record.headers[..3].copy_from_slice(&[0x45, 64, 9]);
        record.observed[..steps.len()].copy_from_slice(steps);
        Traversal::decode(record.bytes()).unwrap()
    }

    /// The headers as a step left them, as far as they are linear.
    fn after(index: u16, ttl: u8) -> Changed {
        let mut record = HeadersAfter {
            kind: kind::HEADERS_AFTER,
            skb: 7,
            packet_len: 40,
            index,
            headers_len: 2,
            ..HeadersAfter::EMPTY
        };
        record.headers[..2].copy_from_slice(&[0x45, ttl]);
        Changed::of(&record)
    }

    /// The second byte of the headers at each step, where they are certain.
    fn ttls(traversal: &Traversal) -> Vec<Option<u8>> {
        ttls_in(&table(false), traversal)
    }

    fn ttls_in(table: &Table, traversal: &Traversal) -> Vec<Option<u8>> {
        let (steps, doubt) = walk(table, traversal);
        assert_eq!(doubt, None);
        for step in steps.iter().filter(|step| !step.headers.is_empty()) {
            assert_eq!(step.headers.len(), 3);
        }
        steps.iter().map(|step| step.headers.get(1).copied()).collect()
    }

    #[test]
    fn headers_that_a_rule_changes_are_those_of_the_steps_after_it() {
        let mut traversal = traversal(Some(3));
        traversal.changed = vec![after(1, 33), after(2, 33), after(3, 33)];
        assert_eq!(ttls(&traversal), [64, 64, 33, 33].map(Some));
    }

    #[test]
    fn a_rule_that_could_have_changed_them_may_have_left_them_as_they_were() {
        assert_eq!(ttls(&traversal(Some(0))), [Some(64); 4]);
    }

    #[test]
    fn without_word_of_them_they_are_not_certain_any_more() {
        let unknown = [Some(64), Some(64), None, None];
        assert_eq!(ttls(&traversal(None)), unknown);
        // One of three was lost.
        let mut traversal = traversal(Some(3));
        traversal.changed = vec![after(2, 33), after(3, 33)];
        assert_eq!(ttls(&traversal), unknown);
    }

    #[test]
    fn what_a_rule_changed_before_it_did_not_match_is_known_from_the_next_step() {
        const ACCEPT: i32 = 1;
        const STOLEN: i32 = 2;

        let table = table(true);
        let met = |told, last| {
            let steps = [step(1, code::CONTINUE, 0), step(3, last, 0)];
            traversal_of(told, last.cast_unsigned(), &steps)
        };
        let mut traversal = met(Some(1), ACCEPT);
        traversal.changed = vec![after(1, 33)];
        assert_eq!(ttls_in(&table, &traversal), [64, 33].map(Some));
        assert_eq!(ttls_in(&table, &met(Some(0), ACCEPT)), [Some(64); 2]);
        assert_eq!(ttls_in(&table, &met(None, ACCEPT)), [Some(64), None]);
        // Nobody looked.
        assert_eq!(ttls_in(&table, &met(Some(0), STOLEN)), [Some(64), None]);
    }
}
