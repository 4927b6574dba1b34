//! Builds BTF for tests: types are added one by one, each call returns the id.

use super::{Btf, HEADER_LEN, MAGIC, kind};

/// BTF under construction.
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
    first_string: u32,
}

impl Builder {
    /// BTF that stands by itself.
    pub(crate) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next_id: 1,
            first_string: 0,
        }
    }

    /// BTF of a module on top of `base`.
    pub(crate) fn on(base: &Btf) -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next_id: base.end_id(),
            first_string: base.end_string(),
        }
    }

    /// The id that the next type gets.
    pub(crate) fn next(&self) -> u32 {
        self.next_id
    }

    /// The finished bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        wrap(&self.types, &self.strings)
    }

    /// An integer that fills its bytes.
    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.narrow_int(name, size, size * 8)
    }

    /// An integer of fewer bits than it has room for.
    pub(crate) fn narrow_int(&mut self, name: &str, size: u32, bits: u32) -> u32 {
        self.record(name, kind::INT, false, 0, size, &[bits])
    }

    /// A pointer to type `to`; 0 is `void`.
    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.record("", kind::PTR, false, 0, to, &[])
    }

    /// `const` in front of type `of`.
    pub(crate) fn constant(&mut self, of: u32) -> u32 {
        self.record("", kind::CONST, false, 0, of, &[])
    }

    /// Another name for type `of`.
    pub(crate) fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.record(name, kind::TYPEDEF, false, 0, of, &[])
    }

    /// A struct that is announced but not defined.
    pub(crate) fn forward(&mut self, name: &str) -> u32 {
        self.record(name, kind::FWD, false, 0, 0, &[])
    }

    /// A struct of members (name, type, offset in bytes).
    pub(crate) fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let members: Vec<_> = members
            .iter()
            .map(|(name, of, at)| (*name, *of, at * 8, 0))
            .collect();
        self.composite(name, kind::STRUCT, false, &members)
    }

    /// A union, all members at offset 0.
    pub(crate) fn union(&mut self, name: &str, members: &[(&str, u32)]) -> u32 {
        let members: Vec<_> = members.iter().map(|(name, of)| (*name, *of, 0, 0)).collect();
        self.composite(name, kind::UNION, false, &members)
    }

    /// A struct of members (name, type, offset in bits, width in bits or 0), in the form with the flag.
    pub(crate) fn structure_with_bits(&mut self, name: &str, members: &[(&str, u32, u32, u32)]) -> u32 {
        self.composite(name, kind::STRUCT, true, members)
    }

    /// A function that takes parameters of these types.
    pub(crate) fn function(&mut self, name: &str, parameters: &[u32]) -> u32 {
        let count = u32::try_from(parameters.len()).unwrap();
        let extra: Vec<u32> = parameters.iter().flat_map(|of| [0, *of]).collect();
        let prototype = self.record("", kind::FUNC_PROTO, false, count, 0, &extra);
        self.record(name, kind::FUNC, false, 0, prototype, &[])
    }

    /// A record of any kind, for what has no method.
    pub(crate) fn record(
        &mut self,
        name: &str,
        kind: u8,
        flag: bool,
        count: u32,
        size_or_type: u32,
        extra: &[u32],
    ) -> u32 {
        let name = self.string(name);
        let info = u32::from(flag) << 31 | u32::from(kind) << 24 | count;
        for word in [name, info, size_or_type].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn composite(&mut self, name: &str, kind: u8, flag: bool, members: &[(&str, u32, u32, u32)]) -> u32 {
        let count = u32::try_from(members.len()).unwrap();
        let extra: Vec<u32> = members
            .iter()
            .flat_map(|(name, of, at, width)| [self.string(name), *of, width << 24 | at])
            .collect();
        self.record(name, kind, flag, count, 0, &extra)
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.first_string + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }
}

/// Puts a valid header in front of types and strings.
pub(crate) fn wrap(types: &[u8], strings: &[u8]) -> Vec<u8> {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_ne_bytes());
    bytes.extend([1, 0]);
    let header_len = u32::try_from(HEADER_LEN).unwrap();
    for word in [header_len, 0, len(types), len(types), len(strings)] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}
