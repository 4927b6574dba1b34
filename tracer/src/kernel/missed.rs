//! How often the kernel did not run a kprobe, on kernels that count it and tell nobody (before 6.7): read from where it
//! keeps its kprobes, `kprobe_table` of `kernel/kprobes.c`, in which each `struct kprobe` has `nmissed`.

use std::collections::HashMap;
use std::num::NonZeroU64;

use aya::Ebpf;

use super::{KernelBtf, code, machine::Machine};

/// `KPROBE_TABLE_SIZE`
const BUCKETS: u64 = 64;
/// Kprobes looked at; a list that a change under way has led astray ends here.
const KPROBES_MAX: usize = 4096;

/// Where the kernel keeps its kprobes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kprobes {
    table: NonZeroU64,
    /// `kprobe.hlist`, which begins with the address of the next one's.
    list: u64,
    /// `kprobe.addr`
    address: u64,
    /// `kprobe.nmissed`
    missed: u64,
}

impl Kprobes {
    /// Finds the table; `None` where the kernel does not show it.
    pub(super) fn find(btf: &KernelBtf) -> Option<Self> {
        let member = |name| Some(u64::from(btf.vmlinux().member("kprobe", name).ok()?));
        let mut found = Machine::this().data(&["kprobe_table"]).ok()?.into_iter();
        let (Some(table), None) = (found.next(), found.next()) else {
            return None;
        };
        Some(Self {
            table: table.address?,
            list: member("hlist")?,
            address: member("addr")?,
            missed: member("nmissed")?,
        })
    }

    /// How often each kprobe was not run, by its address. `None` where that cannot be read.
    pub(super) fn missed(self, ebpf: &Ebpf) -> Option<HashMap<u64, u64>> {
        let word = |address: u64| code::word(ebpf, address).ok()?;
        let mut missed = HashMap::new();
        for bucket in 0..BUCKETS {
            let mut next = word(self.table.get() + bucket * 8)?;
            while next != 0 && missed.len() < KPROBES_MAX {
                let kprobe = next.wrapping_sub(self.list);
                let address = word(kprobe + self.address)?;
                missed.insert(address, word(kprobe + self.missed)?);
                next = word(next)?;
            }
        }
        Some(missed)
    }
}
