//! Messages of nfnetlink: `include/uapi/linux/netlink.h`, `netfilter/nfnetlink.h`, `netfilter/nf_tables.h`.
//! Only bytes here, no socket.

/// `NFNL_SUBSYS_NFTABLES`
pub const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`
pub const BATCH_BEGIN: u16 = 0x10;
/// See [`BATCH_BEGIN`].
pub const BATCH_END: u16 = 0x11;
/// `NLMSG_ERROR`
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`
pub const DONE: u16 = 3;
/// `NLM_F_REQUEST`
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`
pub const ACK: u16 = 4;
/// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile.
pub const INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`
pub const CREATE: u16 = 0x400;

/// `struct nlmsghdr`
const HEADER_LEN: usize = 16;
/// `struct nfgenmsg`
const FAMILY_HEADER_LEN: usize = 4;
/// `struct nlattr`
const ATTRIBUTE_LEN: usize = 4;
/// `NLA_F_NESTED`; `NLA_TYPE_MASK` leaves it and its neighbour out.
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

/// Messages of nf_tables (`enum nf_tables_msg_types`).
pub mod message {
    /// `NFT_MSG_NEWTABLE`
    pub const NEW_TABLE: u8 = 0;
    /// `NFT_MSG_GETTABLE`
    pub const GET_TABLE: u8 = 1;
    /// `NFT_MSG_NEWCHAIN`
    pub const NEW_CHAIN: u8 = 3;
    /// `NFT_MSG_GETCHAIN`
    pub const GET_CHAIN: u8 = 4;
    /// `NFT_MSG_NEWRULE`
    pub const NEW_RULE: u8 = 6;
    /// `NFT_MSG_GETRULE`
    pub const GET_RULE: u8 = 7;
    /// `NFT_MSG_NEWSET`
    pub const NEW_SET: u8 = 9;
    /// `NFT_MSG_GETSET`
    pub const GET_SET: u8 = 10;
    /// `NFT_MSG_TRACE`
    pub const TRACE: u8 = 17;
}

/// A message of nf_tables.
#[must_use]
pub fn kind(message: u8) -> u16 {
    SUBSYSTEM << 8 | u16::from(message)
}

/// Writes messages one after another.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Adds a message of a family; `body` adds its attributes.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        body(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds what is no attribute: the rest of a header that is longer than `struct nfgenmsg`.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(ATTRIBUTE_LEN + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    /// Adds a string.
    pub fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute that holds attributes.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        body(self);
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The messages in what a socket gave; ends at the first that is not whole.
    pub fn all(mut bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
            if len < HEADER_LEN || len > bytes.len() {
                return None;
            }
            let message = Self {
                kind: u16_at(bytes, 4)?,
                flags: u16_at(bytes, 6)?,
                sequence: u32_at(bytes, 8)?,
                payload: &bytes[HEADER_LEN..len],
            };
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some(message)
        })
    }

    /// Of [`ERROR`]: the error number, zero for an acknowledgement.
    #[must_use]
    pub fn error(&self) -> Option<i32> {
        let code = u32_at(self.payload, 0)?.cast_signed();
        Some(code.wrapping_neg())
    }

    /// The family that an answer is about.
    #[must_use]
    pub fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(FAMILY_HEADER_LEN..).unwrap_or_default())
    }
}

/// Attributes one after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// Each with its type; ends at the first that is not whole.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let len = usize::from(u16_at(bytes, 0)?);
            let kind = u16_at(bytes, 2)? & TYPE_MASK;
            let value = bytes.get(ATTRIBUTE_LEN..len)?;
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of the first attribute of a type.
    #[must_use]
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(other, _)| *other == kind)
            .map(|(_, value)| value)
    }

    /// The attributes in an attribute; none where it is not there.
    #[must_use]
    pub fn nested(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// A string.
    #[must_use]
    pub fn string(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// A number of 32 bits in network byte order, as nf_tables has them.
    #[must_use]
    pub fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }

    /// A number of 64 bits in network byte order.
    #[must_use]
    pub fn be64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.message(kind(message::NEW_TABLE), REQUEST, 7, 2, 0, |message| {
            message.string(1, "filter");
            message.nested(4, |inner| inner.attribute(1, &3_u32.to_be_bytes()));
        });
        writer.message(DONE, 0, 8, 0, 0, |_| {});
        let messages: Vec<_> = Message::all(writer.bytes()).collect();
        assert_eq!(messages.len(), 2);
        let attributes = messages[0].attributes();
        assert_eq!((messages[0].kind, messages[0].sequence), (0xa00, 7));
        assert_eq!(messages[0].family(), Some(2));
        assert_eq!(attributes.string(1).as_deref(), Some("filter"));
        assert_eq!(attributes.nested(4).be32(1), Some(3));
        assert_eq!(attributes.be64(9), None);
    }

    #[test]
    fn any_bytes_are_messages_or_none() {
        bolero::check!().for_each(|bytes: &[u8]| {
            for message in Message::all(bytes) {
                let _ = (message.error(), message.family());
                for (kind, _) in message.attributes().iter() {
                    let _ = message.attributes().nested(kind).string(kind);
                }
            }
        });
    }
}
