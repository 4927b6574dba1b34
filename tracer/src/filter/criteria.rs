//! The filter of the programs (`tracer-ebpf/src/filter.rs`), on a record.

use tracer_common::{Filter, IFNAME_LEN, Prefix, TABLE_NAME_LEN, criteria};

use super::{all, any, headers::Headers};
use crate::traversal::{Device, Traversal};

/// Whether the packet satisfied every criterion when it entered the table.
pub(super) fn satisfied(filter: &Filter, traversal: &Traversal) -> Option<bool> {
    let asked = |criterion| filter.criteria & criterion != 0;
    let headers = Headers::of(traversal);
    let addresses = headers.addresses();
    let source = addresses.map(|(source, _)| within(&source, &filter.source));
    let destination = addresses.map(|(_, destination)| within(&destination, &filter.destination));
    let either = addresses
        .map(|(source, destination)| within(&source, &filter.either) || within(&destination, &filter.either));
    let ports = |holds: &dyn Fn(u16, u16) -> bool| {
        let ports = headers.ports()?;
        Some(ports.is_some_and(|(source, destination)| holds(source, destination)))
    };
    let source_ports = filter.source_port_min..=filter.source_port_max;
    let destination_ports = filter.destination_port_min..=filter.destination_port_max;
    let either_ports = filter.either_port_min..=filter.either_port_max;
    all([
        !asked(criteria::NETNS) || traversal.netns == filter.netns,
        !asked(criteria::MARK) || traversal.mark_before & filter.mark_mask == filter.mark,
        !asked(criteria::IN_DEVICE)
            || is_called(
                traversal.in_device.as_ref(),
                &filter.in_device,
                &filter.in_device_mask,
            ),
        !asked(criteria::OUT_DEVICE)
            || is_called(
                traversal.out_device.as_ref(),
                &filter.out_device,
                &filter.out_device_mask,
            ),
    ]
    .map(Some)
    .into_iter()
    .chain([
        if asked(criteria::SOURCE) {
            source
        } else {
            Some(true)
        },
        if asked(criteria::DESTINATION) {
            destination
        } else {
            Some(true)
        },
        if asked(criteria::EITHER) {
            either
        } else {
            Some(true)
        },
        if asked(criteria::PROTOCOL) {
            headers
                .transport()
                .map(|(protocol, _)| protocol == filter.protocol)
        } else {
            Some(true)
        },
        if asked(criteria::SOURCE_PORT) {
            ports(&|source, _| source_ports.contains(&source))
        } else {
            Some(true)
        },
        if asked(criteria::DESTINATION_PORT) {
            ports(&|_, destination| destination_ports.contains(&destination))
        } else {
            Some(true)
        },
        if asked(criteria::EITHER_PORT) {
            any([
                ports(&|source, _| either_ports.contains(&source)),
                ports(&|_, destination| either_ports.contains(&destination)),
            ])
        } else {
            Some(true)
        },
    ]))
}

/// Whether this traversal is to be shown.
pub(super) fn in_scope(filter: &Filter, traversal: &Traversal) -> bool {
    let tables = &filter.tables[..usize::from(filter.tables_len).min(filter.tables.len())];
    filter.hooks & (1 << (traversal.hook.number() & 7)) != 0
        && (tables.is_empty() || tables.contains(&padded::<TABLE_NAME_LEN>(&traversal.table)))
}

/// Whether an address is in a prefix.
pub(super) fn within(address: &[u8; 16], prefix: &Prefix) -> bool {
    equal_under(address, &prefix.address, &prefix.mask)
}

fn is_called(device: Option<&Device>, name: &[u8; IFNAME_LEN], mask: &[u8; IFNAME_LEN]) -> bool {
    device.is_some_and(|device| equal_under(&padded(&device.name), name, mask))
}

fn equal_under<const N: usize>(bytes: &[u8; N], wanted: &[u8; N], mask: &[u8; N]) -> bool {
    let mut differences = bytes.iter().zip(wanted).zip(mask);
    differences.all(|((byte, wanted), mask)| (byte ^ wanted) & mask == 0)
}

fn padded<const N: usize>(name: &str) -> [u8; N] {
    let mut padded = [0; N];
    let len = name.len().min(N);
    padded[..len].copy_from_slice(&name.as_bytes()[..len]);
    padded
}
