//! Questions of rtnetlink about the other end of a device, and their answers: `include/uapi/linux/rtnetlink.h`,
//! `if_link.h`, `net_namespace.h`. Only bytes here, no socket.

use crate::nftables::netlink::{Attributes, ERROR, Message, REQUEST, Writer};

/// `RTM_NEWLINK`
const NEW_LINK: u16 = 16;
/// `RTM_GETLINK`
const GET_LINK: u16 = 18;
/// `RTM_NEWNSID`
const NEW_NSID: u16 = 88;
/// `RTM_GETNSID`
const GET_NSID: u16 = 90;
/// `IFLA_LINK`
const LINK: u16 = 5;
/// `IFLA_LINKINFO`
const LINK_INFO: u16 = 18;
/// `IFLA_INFO_KIND`
const INFO_KIND: u16 = 1;
/// `IFLA_LINK_NETNSID`
const LINK_NETNSID: u16 = 37;
/// `NETNSA_NSID`
const NSID: u16 = 1;
/// `NETNSA_FD`
const NSID_FD: u16 = 3;
/// `struct ifinfomsg`
const LINK_HEADER_LEN: usize = 16;
/// `struct rtgenmsg`, aligned.
const NSID_HEADER_LEN: usize = 4;

/// Asks for a device.
pub(super) fn ask_link(ifindex: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(GET_LINK, REQUEST, 1, 0, 0, |body| {
        // The rest of `struct ifinfomsg`: index, flags, and which of them.
        body.raw(&ifindex.to_ne_bytes());
        body.raw(&[0; 8]);
    });
    writer.bytes().to_vec()
}

/// Of a device that has another end in another network namespace: the number by which the namespace that was asked
/// knows that one. `None` for other devices, and where the answer is none.
pub(super) fn peer_nsid(answer: &[u8]) -> Option<i32> {
    let message = Message::all(answer).find(|message| message.kind == NEW_LINK)?;
    let attributes = Attributes(message.payload.get(LINK_HEADER_LEN..)?);
    let kind = attributes.nested(LINK_INFO).string(INFO_KIND)?;
    // Of others IFLA_LINK is the device that they are on top of.
    let has_peer = matches!(kind.as_str(), "veth" | "netkit") && attributes.get(LINK).is_some();
    number(attributes, LINK_NETNSID).filter(|nsid| has_peer && *nsid >= 0)
}

/// Asks by which number the namespace of the socket knows the one of a descriptor. It is given none for that.
pub(super) fn ask_nsid(fd: i32) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(GET_NSID, REQUEST, 1, 0, 0, |body| {
        body.attribute(NSID_FD, &fd.to_ne_bytes());
    });
    writer.bytes().to_vec()
}

/// The number; `None` where it has none.
pub(super) fn nsid(answer: &[u8]) -> Option<i32> {
    let message = Message::all(answer).find(|message| matches!(message.kind, NEW_NSID | ERROR))?;
    let attributes = Attributes(message.payload.get(NSID_HEADER_LEN..)?);
    number(attributes, NSID).filter(|nsid| message.kind == NEW_NSID && *nsid >= 0)
}

fn number(attributes: Attributes<'_>, kind: u16) -> Option<i32> {
    Some(i32::from_ne_bytes(*attributes.get(kind)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: &str, nsid: Option<i32>) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.message(NEW_LINK, 0, 1, 0, 0, |body| {
            body.raw(&[0; 12]);
            body.attribute(LINK, &7_u32.to_ne_bytes());
            body.nested(LINK_INFO, |info| info.string(INFO_KIND, kind));
            if let Some(nsid) = nsid {
                body.attribute(LINK_NETNSID, &nsid.to_ne_bytes());
            }
        });
        writer.bytes().to_vec()
    }

    #[test]
    fn only_what_has_another_end_elsewhere_has_a_peer() {
        assert_eq!(peer_nsid(&link("veth", Some(3))), Some(3));
        assert_eq!(peer_nsid(&link("netkit", Some(0))), Some(0));
        assert_eq!(peer_nsid(&link("veth", None)), None);
        assert_eq!(peer_nsid(&link("veth", Some(-1))), None);
        assert_eq!(peer_nsid(&link("macvlan", Some(3))), None);
        assert_eq!(peer_nsid(&ask_link(3)), None);
    }

    #[test]
    fn a_namespace_has_a_number_or_none() {
        let answer = |number: i32| {
            let mut writer = Writer::default();
            writer.message(NEW_NSID, 0, 1, 0, 0, |body| {
                body.attribute(NSID, &number.to_ne_bytes());
            });
            nsid(writer.bytes())
        };
        assert_eq!(answer(4), Some(4));
        assert_eq!(answer(-1), None);
        assert_eq!(nsid(&ask_nsid(9)), None);
    }

    #[test]
    fn any_answer_is_read() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = (peer_nsid(bytes), nsid(bytes));
        });
    }
}
