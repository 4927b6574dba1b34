//! Turns the kernel's trace calls on, without a trace rule on the node.
//!
//! `nft_do_chain` calls `__nft_trace_packet` only while the static key `nft_trace_enabled` is on. Any `meta nftrace set`
//! expression in any network namespace turns it on (`nft_meta_set_init`, `net/netfilter/nft_meta.c`). So there is one in
//! a namespace of our own, in a chain that nothing calls, and it says `set 0`. The namespace is held by one socket: it
//! goes, and the key goes off, when the process does, however it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::netlink::{
    ACK, BATCH_BEGIN, BATCH_END, CREATE, Message, REQUEST, SUBSYSTEM, Writer, kind, message,
};
use super::source::Socket;

/// Name of the table, for whoever finds it.
const NAME: &str = "tracer";
const FAMILY_IPV4: u8 = 2;

// Attributes: include/uapi/linux/netfilter/nf_tables.h.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const META_KEY: u16 = 2;
const META_SOURCE: u16 = 3;
/// `NFT_META_NFTRACE`
const NFTRACE: u32 = 12;
/// `NFT_REG_1`
const REGISTER: u32 = 1;

/// Keeps the trace calls on as long as it lives.
#[derive(Debug)]
pub struct TraceKey {
    _namespace: OwnedFd,
}

impl TraceKey {
    /// Turns the trace calls on; they are on when this returns. The calling thread stays where it is. To be called only
    /// where nf_tables is loaded: asking for it would load it.
    ///
    /// # Errors
    /// What the kernel refused: a namespace (`CAP_SYS_ADMIN`), or rules in it.
    pub fn turn() -> io::Result<Self> {
        let turn = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut socket = Socket::open()?;
            socket.send(&rules())?;
            let mut answers = 0;
            while answers == 0 {
                socket.receive(|bytes| {
                    for answer in Message::all(bytes) {
                        match answer.error() {
                            Some(0) => answers += 1,
                            Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                            None => {}
                        }
                    }
                    Ok(())
                })?;
            }
            Ok(Self {
                _namespace: socket.into(),
            })
        };
        thread::scope(|scope| {
            scope
                .spawn(turn)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A transaction that makes the table; the rule's is the message that is acknowledged, as the kernel does once all of
/// it is done.
fn rules() -> Vec<u8> {
    let mut batch = Writer::default();
    batch.message(BATCH_BEGIN, REQUEST, 0, 0, SUBSYSTEM, |_| {});
    let new = REQUEST | CREATE;
    batch.message(kind(message::NEW_TABLE), new, 1, FAMILY_IPV4, 0, |table| {
        table.string(TABLE_NAME, NAME);
    });
    batch.message(kind(message::NEW_CHAIN), new, 2, FAMILY_IPV4, 0, |chain| {
        chain.string(CHAIN_TABLE, NAME);
        chain.string(CHAIN_NAME, NAME);
    });
    batch.message(kind(message::NEW_RULE), new | ACK, 3, FAMILY_IPV4, 0, |rule| {
        rule.string(RULE_TABLE, NAME);
        rule.string(RULE_CHAIN, NAME);
        rule.nested(RULE_EXPRESSIONS, |list| {
            expression(list, "immediate", |data| {
                data.attribute(IMMEDIATE_REGISTER, &REGISTER.to_be_bytes());
                data.nested(IMMEDIATE_DATA, |data| data.attribute(DATA_VALUE, &[0; 4]));
            });
            expression(list, "meta", |data| {
                data.attribute(META_KEY, &NFTRACE.to_be_bytes());
                data.attribute(META_SOURCE, &REGISTER.to_be_bytes());
            });
        });
    });
    batch.message(BATCH_END, REQUEST, 4, 0, SUBSYSTEM, |_| {});
    batch.bytes().to_vec()
}

fn expression(list: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    list.nested(LIST_ELEMENT, |element| {
        element.string(EXPRESSION_NAME, name);
        element.nested(EXPRESSION_DATA, data);
    });
}
