//! The filter of the programs (`tracer-ebpf/src/filter.rs`), on a record.

use tracer_common::{Filter, IFNAME_LEN, Prefix, TABLE_NAME_LEN, criteria};

use super::{all, any, headers::Headers};
use crate::traversal::{Device, Traversal};

/// Whether the packet satisfied every criterion when it entered the table.
pub(super) fn satisfied(filter: &Filter, traversal: &Traversal) -> Option<bool> {
    let headers = Headers::of(traversal);
    let addresses = headers.addresses();
    let address = |holds: &dyn Fn(&[u8; 16], &[u8; 16]) -> bool| {
        addresses.map(|(source, destination)| holds(&source, &destination))
    };
    let ports = |holds: &dyn Fn(u16, u16) -> bool| {
        let ports = headers.ports()?;
        Some(ports.is_some_and(|(source, destination)| holds(source, destination)))
    };
    let source_ports = filter.source_port_min..=filter.source_port_max;
    let destination_ports = filter.destination_port_min..=filter.destination_port_max;
    let either_ports = filter.either_port_min..=filter.either_port_max;
    // What is not asked for holds.
    let when = |criterion, holds: &dyn Fn() -> Option<bool>| {
        if filter.criteria & criterion == 0 {
            Some(true)
        } else {
            holds()
        }
    };
    all([
        when(criteria::NETNS, &|| Some(traversal.netns == filter.netns)),
        when(criteria::MARK, &|| {
            Some(traversal.mark_before & filter.mark_mask == filter.mark)
        }),
        when(criteria::IN_DEVICE, &|| {
            let device = traversal.in_device.as_ref();
            Some(is_called(device, &filter.in_device, &filter.in_device_mask))
        }),
        when(criteria::OUT_DEVICE, &|| {
            let device = traversal.out_device.as_ref();
            Some(is_called(device, &filter.out_device, &filter.out_device_mask))
        }),
        when(criteria::SOURCE, &|| {
            address(&|source, _| within(source, &filter.source))
        }),
        when(criteria::DESTINATION, &|| {
            address(&|_, destination| within(destination, &filter.destination))
        }),
        when(criteria::EITHER, &|| {
            address(&|source, destination| {
                within(source, &filter.either) || within(destination, &filter.either)
            })
        }),
        when(criteria::PROTOCOL, &|| {
            let (protocol, _) = headers.transport()?;
            Some(protocol == filter.protocol)
        }),
        when(criteria::SOURCE_PORT, &|| {
            ports(&|source, _| source_ports.contains(&source))
        }),
        when(criteria::DESTINATION_PORT, &|| {
            ports(&|_, destination| destination_ports.contains(&destination))
        }),
        when(criteria::EITHER_PORT, &|| {
            any([
                ports(&|source, _| either_ports.contains(&source)),
                ports(&|_, destination| either_ports.contains(&destination)),
            ])
        }),
    ])
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
