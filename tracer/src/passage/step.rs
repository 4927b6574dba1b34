//! A step: one rule, return or policy that a packet met.

use std::{fmt, sync::Arc};

pub use crate::traversal::Backend;
use crate::{ruleset::Kind, traversal::Verdict};

/// A rule whose matches all held, the return from a chain, or a policy: what TRACE has a line for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain.
    pub chain: Arc<str>,
    /// What TRACE calls it.
    pub kind: Kind,
    /// The rule's number in its chain, from 1, where it is known.
    pub number: Option<u32>,
    /// The rule's handle, which nf_tables gives.
    pub handle: Option<u64>,
    /// The rule as `iptables-save` or `nft` prints it, where texts were read and the tool prints it at all.
    pub text: Option<Arc<str>>,
    /// What the rule did with the packet.
    pub action: Action,
    /// How many jumps are to be returned from.
    pub depth: u16,
    /// The packet's mark when the rule was met, before its target.
    pub mark: u32,
    /// The packet's mark after the step; `None` where it is not known.
    pub mark_after: Option<u32>,
    /// The packet's headers when the rule was met, as far as they are certain.
    pub headers: Arc<[u8]>,
    /// The packet's length from the network header on when the rule was met.
    pub packet_len: u32,
    /// What the chain is for, in a person's words, where [`crate::names`] knows.
    pub meaning: Option<Arc<str>>,
}

/// What a rule did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, the next rule came: it has no target, or only counts.
    Continue,
    /// Went to another chain, to come back.
    Jump(Arc<str>),
    /// Went to another chain, not to come back.
    Goto(Arc<str>),
    /// Went back to the chain that jumped, or to the policy.
    Return,
    /// Ended the table.
    Verdict(Verdict),
    /// Called a target or statement.
    Target {
        /// Its name, as iptables has it: `MARK`, `DNAT`, `REJECT`.
        name: Arc<str>,
        /// The verdict that it ended the table with; `None` where the next rule came.
        verdict: Option<Verdict>,
    },
}

impl Action {
    /// The verdict, if the step ended the table.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Verdict(verdict) => Some(*verdict),
            Self::Target { verdict, .. } => *verdict,
            Self::Continue | Self::Jump(_) | Self::Goto(_) | Self::Return => None,
        }
    }

    /// Whether the target or statement that was called is one of these, which are named in upper case: nf_tables says
    /// `dnat` where iptables says `DNAT`.
    #[must_use]
    pub fn is_one_of(&self, names: &[&str]) -> bool {
        self.target()
            .is_some_and(|target| names.iter().any(|name| name.eq_ignore_ascii_case(target)))
    }

    /// Name of the target that was called, if one was.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Target { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// `ACCEPT`, `jump KUBE-SERVICES`, `goto X`, `return`, `continue`, `MARK`
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("continue"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Target { name, .. } => f.write_str(name),
        }
    }
}

impl Step {
    /// `KUBE-SERVICES:rule:23` as TRACE has it. A rule of nf_tables whose number is not known has its handle
    /// instead: `INPUT:rule:0x1c`.
    #[must_use]
    pub fn label(&self) -> String {
        match (self.number, self.handle) {
            (Some(number), _) => format!("{}:{}:{number}", self.chain, self.kind),
            (None, Some(handle)) => format!("{}:{}:{handle:#x}", self.chain, self.kind),
            (None, None) => format!("{}:{}:", self.chain, self.kind),
        }
    }
}
