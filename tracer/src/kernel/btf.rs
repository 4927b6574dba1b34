//! A reader of BTF, the kernel's own description of its types, that answers two questions: at which
//! offset is this member, and which structs does this function take pointers to.
//!
//! The format is `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h` of the kernel. A module has
//! *split* BTF: its string offsets and type ids continue where those of vmlinux end.
//!
//! The bytes are data from outside, so nothing here trusts them: every read is checked, every walk has
//! a limit, and what is not understood is an error.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

/// More than any kernel has: vmlinux of a distribution has about 6 MiB.
const BYTES_MAX: usize = 64 << 20;
/// `BTF_MAX_TYPE` of the kernel, with room to grow.
const TYPES_MAX: usize = 1 << 22;
/// Members looked at to answer one question; the largest struct of a kernel has a few hundred.
const VISITS_MAX: u32 = 100_000;
/// Anonymous structs and unions within each other.
const NESTING_MAX: u32 = 16;
/// Typedefs and qualifiers in a row.
const QUALIFIERS_MAX: u32 = 32;
/// Structs, or functions, of one name.
const CANDIDATES_MAX: usize = 64;

/// Bytes of one name; the kernel's own limit is `KSYM_NAME_LEN`, 512.
const NAME_LEN_MAX: usize = 4096;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const RECORD_LEN: usize = 12;
const MEMBER_LEN: usize = 12;
const PARAMETER_LEN: usize = 8;

/// `BTF_KIND_*`, `include/uapi/linux/btf.h`.
mod kind {
    pub(super) const INT: u8 = 1;
    pub(super) const PTR: u8 = 2;
    pub(super) const ARRAY: u8 = 3;
    pub(super) const STRUCT: u8 = 4;
    pub(super) const UNION: u8 = 5;
    pub(super) const ENUM: u8 = 6;
    pub(super) const FWD: u8 = 7;
    pub(super) const TYPEDEF: u8 = 8;
    pub(super) const VOLATILE: u8 = 9;
    pub(super) const CONST: u8 = 10;
    pub(super) const RESTRICT: u8 = 11;
    pub(super) const FUNC: u8 = 12;
    pub(super) const FUNC_PROTO: u8 = 13;
    pub(super) const VAR: u8 = 14;
    pub(super) const DATASEC: u8 = 15;
    pub(super) const FLOAT: u8 = 16;
    pub(super) const DECL_TAG: u8 = 17;
    pub(super) const TYPE_TAG: u8 = 18;
    pub(super) const ENUM64: u8 = 19;
}

/// Why bytes are not BTF that can be read here.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The bytes do not start as BTF does.
    #[error("not BTF: magic {0:#06x}")]
    Magic(u16),
    /// BTF of a machine with the other byte order.
    #[error("BTF of the other byte order")]
    ByteOrder,
    /// A version of the format that did not exist when this was written.
    #[error("BTF version {0} is not known")]
    Version(u8),
    /// The bytes end before what they announce.
    #[error("BTF is cut short in its {0}")]
    Truncated(&'static str),
    /// A kind of type that did not exist when this was written, so the records after it cannot be found.
    #[error("BTF type {id} is of unknown kind {kind}")]
    Kind {
        /// Id of the type.
        id: u32,
        /// The kind it claims.
        kind: u8,
    },
    /// More than a kernel has.
    #[error("BTF is too large: {0}")]
    TooLarge(&'static str),
}

/// Why a question about types has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LookupError {
    /// There is no definition of the struct.
    #[error("struct {0} is not defined")]
    NoStruct(String),
    /// The struct has no such member.
    #[error("struct {structure} has no member {path}")]
    NoMember {
        /// Name of the struct.
        structure: String,
        /// The member asked for.
        path: String,
    },
    /// Several structs have the name, and they put the member at different places, or not all have it.
    #[error("several structs {structure} disagree about member {path}")]
    Disagreement {
        /// Name of the structs.
        structure: String,
        /// The member asked for.
        path: String,
    },
    /// The member does not start at a byte, or does not fill its type.
    #[error("member {path} of struct {structure} is a bit field")]
    Bitfield {
        /// Name of the struct.
        structure: String,
        /// The member asked for.
        path: String,
    },
    /// The member is no bit field, where one was asked for.
    #[error("member {path} of struct {structure} is not a bit field")]
    NoBitfield {
        /// Name of the struct.
        structure: String,
        /// The member asked for.
        path: String,
    },
    /// There is no such function.
    #[error("function {0} is not described")]
    NoFunction(String),
    /// Several functions have the name, and they take different arguments.
    #[error("several functions {0} take different arguments")]
    FunctionsDisagree(String),
    /// The types refer to types that are not there, or to themselves, or beyond every limit.
    #[error("the types behind {0} are broken")]
    Broken(String),
}

impl LookupError {
    /// Whether the kernel simply does not have what was asked for.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::NoStruct(_) | Self::NoMember { .. } | Self::NoFunction(_)
        )
    }
}

/// What a function takes at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `void *`, `const void *`
    VoidPointer,
    /// A pointer to a struct or union of this name, which need not be defined.
    StructPointer(String),
    /// Anything else.
    Other,
}

/// The types of vmlinux, or of one module on top of vmlinux.
#[derive(Debug)]
pub struct Btf {
    base: Option<Arc<Btf>>,
    bytes: Vec<u8>,
    /// Where the types and the strings are in `bytes`.
    types: Range<usize>,
    strings: Range<usize>,
    /// Where in the types each type starts.
    starts: Vec<u32>,
    /// Id of the first of `starts`.
    first_id: u32,
    /// Offset by which the first of the strings is known.
    first_string: u32,
    /// Hash of the name, and id, of every struct, union, typedef and function; sorted.
    names: Vec<(u64, u32)>,
}

/// One type, not yet interpreted.
#[derive(Clone, Copy)]
struct Record<'a> {
    name: u32,
    kind: u8,
    flag: bool,
    /// Size of the type, or id of the type it refers to.
    size_or_type: u32,
    extra: &'a [u8],
}

impl Record<'_> {
    fn is_composite(&self) -> bool {
        matches!(self.kind, kind::STRUCT | kind::UNION)
    }
}

/// A member that was found.
#[derive(Clone, Copy)]
struct Hit {
    offset_bits: u32,
    type_id: u32,
    bitfield: bool,
}

/// Marker: the types are broken. The caller knows which question led there.
struct Broken;

impl Btf {
    /// Reads BTF that stands by itself, such as `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    ///
    /// If the bytes are not BTF of this byte order, or hold a kind of type that is not known.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, BtfError> {
        Self::parse_on(None, bytes.into())
    }

    /// Reads the BTF of a module, such as `/sys/kernel/btf/ip_tables`, on top of the BTF of the vmlinux
    /// it was built for. Questions then find the types of both.
    ///
    /// # Errors
    ///
    /// As for [`Btf::parse`].
    pub fn parse_split(base: &Arc<Self>, bytes: impl Into<Vec<u8>>) -> Result<Self, BtfError> {
        Self::parse_on(Some(Arc::clone(base)), bytes.into())
    }

    fn parse_on(base: Option<Arc<Self>>, bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.len() > BYTES_MAX {
            return Err(BtfError::TooLarge("more than 64 MiB"));
        }
        let (types, strings) = sections(&bytes)?;
        let (first_id, first_string) = match &base {
            None => (1, 0),
            Some(base) => (base.end_id(), base.end_string()),
        };
        let mut btf = Self {
            base,
            bytes,
            types,
            strings,
            starts: Vec::new(),
            first_id,
            first_string,
            names: Vec::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    fn types(&self) -> &[u8] {
        &self.bytes[self.types.clone()]
    }

    fn strings(&self) -> &[u8] {
        &self.bytes[self.strings.clone()]
    }

    /// Finds the start of every type, and the types that can be asked for by name.
    fn index(&mut self) -> Result<(), BtfError> {
        // A record is 12 bytes and, on average, a few words more.
        let mut starts = Vec::with_capacity(self.types.len() / 20);
        let types = self.types();
        let mut names = Vec::new();
        let mut at = 0;
        let mut id = self.first_id;
        while at < types.len() {
            if starts.len() == TYPES_MAX {
                return Err(BtfError::TooLarge("too many types"));
            }
            let (record, len) = read_record(types, at, id)?;
            starts.push(u32::try_from(at).map_err(|_| BtfError::TooLarge("too many types"))?);
            if matches!(
                record.kind,
                kind::STRUCT | kind::UNION | kind::TYPEDEF | kind::FUNC
            ) {
                match self.string(record.name) {
                    None => return Err(BtfError::Truncated("strings")),
                    Some([]) => {}
                    Some(name) => names.push((hash(name), id)),
                }
            }
            at += len;
            id = id.checked_add(1).ok_or(BtfError::TooLarge("too many types"))?;
        }
        names.sort_unstable();
        self.starts = starts;
        self.names = names;
        Ok(())
    }

    /// The offset in bytes of a member of struct (or union) `structure`.
    ///
    /// `path` is one member, or several joined by dots to step into structs that are members:
    /// `mark`, `ns.inum`, `__sk_common.skc_net.net`. Anonymous structs and unions, typedefs and
    /// qualifiers are looked through, as C does.
    ///
    /// # Errors
    ///
    /// Names of types are not unique. All definitions of `structure`, in the module and in vmlinux, must
    /// give the same answer, otherwise none is given. Bit fields have no byte offset and are refused.
    pub fn member(&self, structure: &str, path: &str) -> Result<u32, LookupError> {
        let hit = self.hit(structure, path)?;
        if hit.bitfield || !hit.offset_bits.is_multiple_of(8) {
            return Err(LookupError::Bitfield {
                structure: structure.into(),
                path: path.into(),
            });
        }
        Ok(hit.offset_bits / 8)
    }

    /// The offset in bits of a member that is a bit field, as [`Btf::member`] finds it. A machine of this byte order
    /// counts bits within a byte from the lowest.
    ///
    /// # Errors
    ///
    /// As of [`Btf::member`]; a member that is no bit field is refused.
    pub fn bit(&self, structure: &str, path: &str) -> Result<u32, LookupError> {
        match self.hit(structure, path)? {
            Hit {
                offset_bits,
                bitfield: true,
                ..
            } => Ok(offset_bits),
            Hit { .. } => Err(LookupError::NoBitfield {
                structure: structure.into(),
                path: path.into(),
            }),
        }
    }

    /// Finds a member in all definitions of `structure`, which must agree.
    fn hit(&self, structure: &str, path: &str) -> Result<Hit, LookupError> {
        let broken = || LookupError::Broken(format!("{structure}.{path}"));
        let mut visits = VISITS_MAX;
        let mut answer: Option<Option<Hit>> = None;
        for id in self.named(structure) {
            let record = self.record(id).ok_or_else(broken)?;
            if !record.is_composite() {
                continue;
            }
            let hit = self.walk_path(id, path, &mut visits).map_err(|Broken| broken())?;
            let same = |other: &Option<Hit>| match (other, &hit) {
                (None, None) => true,
                (Some(a), Some(b)) => a.offset_bits == b.offset_bits && a.bitfield == b.bitfield,
                _ => false,
            };
            match &answer {
                Some(other) if !same(other) => {
                    return Err(LookupError::Disagreement {
                        structure: structure.into(),
                        path: path.into(),
                    });
                }
                _ => answer = Some(hit),
            }
        }
        match answer {
            None => Err(LookupError::NoStruct(structure.into())),
            Some(None) => Err(LookupError::NoMember {
                structure: structure.into(),
                path: path.into(),
            }),
            Some(Some(hit)) => Ok(hit),
        }
    }

    /// What function `name` takes, position by position.
    ///
    /// # Errors
    ///
    /// If the function is not described, or if several functions of that name take different arguments.
    pub fn parameters(&self, name: &str) -> Result<Vec<Parameter>, LookupError> {
        let broken = || LookupError::Broken(name.into());
        let mut answer: Option<Vec<Parameter>> = None;
        for id in self.named(name) {
            let function = self.record(id).ok_or_else(broken)?;
            if function.kind != kind::FUNC {
                continue;
            }
            let prototype = self
                .record(function.size_or_type)
                .filter(|record| record.kind == kind::FUNC_PROTO)
                .ok_or_else(broken)?;
            let parameters: Vec<_> = prototype
                .extra
                .chunks_exact(PARAMETER_LEN)
                .map(|parameter| self.parameter(u32_at(parameter, 4)?))
                .collect::<Option<_>>()
                .ok_or_else(broken)?;
            match &answer {
                Some(other) if *other != parameters => {
                    return Err(LookupError::FunctionsDisagree(name.into()));
                }
                _ => answer = Some(parameters),
            }
        }
        answer.ok_or_else(|| LookupError::NoFunction(name.into()))
    }

    /// The id of the function `name` among these types; those of the base are not looked at. `None` also where several
    /// have the name, for then it does not say which is meant.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        let mut found = self.named(name).filter(|id| {
            let record = self.record(*id);
            *id >= self.first_id && record.is_some_and(|record| record.kind == kind::FUNC)
        });
        match (found.next(), found.next()) {
            (id, None) => id,
            (_, Some(_)) => None,
        }
    }

    /// The id of a struct `name`, the first of them.
    #[must_use]
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.named(name)
            .find(|id| self.record(*id).is_some_and(|record| record.kind == kind::STRUCT))
    }

    /// Whether there is a typedef of this name. The kernel has `btf_trace_<name>` for each raw
    /// tracepoint (`check_attach_btf_id` in `kernel/bpf/verifier.c`).
    #[must_use]
    pub fn has_typedef(&self, name: &str) -> bool {
        self.named(name)
            .any(|id| self.record(id).is_some_and(|record| record.kind == kind::TYPEDEF))
    }

    /// How many types there are, those of the base included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end_id() as usize
    }

    /// Whether there is no type but `void`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    fn end_id(&self) -> u32 {
        // `index` has checked that this does not overflow, and that there are fewer than 2^32 types.
        self.first_id + u32::try_from(self.starts.len()).unwrap_or(u32::MAX - self.first_id)
    }

    fn end_string(&self) -> u32 {
        self.first_string
            .saturating_add(u32::try_from(self.strings.len()).unwrap_or(u32::MAX))
    }

    /// Type `id`; `None` for `void`, and for one that does not exist.
    fn record(&self, id: u32) -> Option<Record<'_>> {
        if id < self.first_id {
            return self.base.as_ref()?.record(id);
        }
        let start = *self.starts.get((id - self.first_id) as usize)?;
        read_record(self.types(), start as usize, id)
            .ok()
            .map(|(record, _)| record)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        if offset < self.first_string {
            return self.base.as_ref()?.string(offset);
        }
        let rest = self.strings().get((offset - self.first_string) as usize..)?;
        let len = rest.iter().take(NAME_LEN_MAX).position(|byte| *byte == 0)?;
        rest.get(..len)
    }

    /// Ids of the structs, unions, typedefs and functions called `name`, here and in the base.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let wanted = hash(name.as_bytes());
        std::iter::successors(Some(self), |btf| btf.base.as_deref()).flat_map(move |btf| {
            let from = btf.names.partition_point(|(hash, _)| *hash < wanted);
            btf.names
                .iter()
                .skip(from)
                .take_while(move |(hash, _)| *hash == wanted)
                .map(|(_, id)| *id)
                .filter(move |id| {
                    self.record(*id)
                        .and_then(|record| self.string(record.name))
                        .is_some_and(|found| found == name.as_bytes())
                })
                .take(CANDIDATES_MAX)
        })
    }

    /// Type `id` without typedefs and qualifiers: `Ok(None)` for `void`.
    fn unqualified(&self, mut id: u32) -> Result<Option<(u32, Record<'_>)>, Broken> {
        for _ in 0..QUALIFIERS_MAX {
            if id == 0 {
                return Ok(None);
            }
            let record = self.record(id).ok_or(Broken)?;
            match record.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = record.size_or_type;
                }
                _ => return Ok(Some((id, record))),
            }
        }
        Err(Broken)
    }

    fn walk_path(&self, structure: u32, path: &str, visits: &mut u32) -> Result<Option<Hit>, Broken> {
        let mut hit = Hit {
            offset_bits: 0,
            type_id: structure,
            bitfield: false,
        };
        for name in path.split('.') {
            let Some((id, _)) = self
                .unqualified(hit.type_id)?
                .filter(|(_, record)| record.is_composite())
            else {
                return Ok(None);
            };
            let Some(step) = self.find(id, name.as_bytes(), NESTING_MAX, visits)? else {
                return Ok(None);
            };
            hit = Hit {
                offset_bits: hit.offset_bits.checked_add(step.offset_bits).ok_or(Broken)?,
                type_id: step.type_id,
                bitfield: hit.bitfield || step.bitfield,
            };
        }
        Ok(Some(hit))
    }

    /// Finds a member of struct `id` by name, also within its anonymous members.
    fn find(&self, id: u32, name: &[u8], nesting: u32, visits: &mut u32) -> Result<Option<Hit>, Broken> {
        let structure = self.record(id).ok_or(Broken)?;
        for member in structure.extra.chunks_exact(MEMBER_LEN) {
            *visits = visits.checked_sub(1).ok_or(Broken)?;
            let member_name = u32_at(member, 0)
                .and_then(|offset| self.string(offset))
                .ok_or(Broken)?;
            let type_id = u32_at(member, 4).ok_or(Broken)?;
            let place = u32_at(member, 8).ok_or(Broken)?;
            // With the flag, the upper eight bits are the width of a bit field.
            let (offset_bits, width_bits) = if structure.flag {
                (place & 0x00ff_ffff, place >> 24)
            } else {
                (place, 0)
            };
            if member_name == name {
                return Ok(Some(Hit {
                    offset_bits,
                    type_id,
                    bitfield: width_bits != 0 || self.is_narrow_int(type_id)?,
                }));
            }
            if !member_name.is_empty() || width_bits != 0 {
                continue;
            }
            let Some((inner, _)) = self
                .unqualified(type_id)?
                .filter(|(_, record)| record.is_composite())
            else {
                continue;
            };
            let nesting = nesting.checked_sub(1).ok_or(Broken)?;
            if let Some(hit) = self.find(inner, name, nesting, visits)? {
                return Ok(Some(Hit {
                    offset_bits: offset_bits.checked_add(hit.offset_bits).ok_or(Broken)?,
                    ..hit
                }));
            }
        }
        Ok(None)
    }

    /// Whether the type is an integer that does not fill its bytes: how a bit field looks in a struct
    /// without the flag.
    fn is_narrow_int(&self, type_id: u32) -> Result<bool, Broken> {
        let Some((_, record)) = self.unqualified(type_id)? else {
            return Ok(false);
        };
        if record.kind != kind::INT {
            return Ok(false);
        }
        let encoding = u32_at(record.extra, 0).ok_or(Broken)?;
        let (offset_bits, width_bits) = ((encoding >> 16) & 0xff, encoding & 0xff);
        Ok(offset_bits != 0 || u64::from(width_bits) != u64::from(record.size_or_type) * 8)
    }

    /// What a parameter of this type is; `None` if the types are broken.
    fn parameter(&self, type_id: u32) -> Option<Parameter> {
        let Some((_, pointer)) = self
            .unqualified(type_id)
            .ok()?
            .filter(|(_, record)| record.kind == kind::PTR)
        else {
            return Some(Parameter::Other);
        };
        Some(match self.unqualified(pointer.size_or_type).ok()? {
            None => Parameter::VoidPointer,
            Some((_, target)) if target.is_composite() || target.kind == kind::FWD => {
                Parameter::StructPointer(String::from_utf8_lossy(self.string(target.name)?).into_owned())
            }
            Some(_) => Parameter::Other,
        })
    }
}

/// Checks the header and says where the types and the strings are.
fn sections(bytes: &[u8]) -> Result<(Range<usize>, Range<usize>), BtfError> {
    let cut = || BtfError::Truncated("header");
    let magic = u16::from_ne_bytes(*bytes.first_chunk().ok_or_else(cut)?);
    if magic == MAGIC.swap_bytes() {
        return Err(BtfError::ByteOrder);
    }
    if magic != MAGIC {
        return Err(BtfError::Magic(magic));
    }
    let version = *bytes.get(2).ok_or_else(cut)?;
    if version != 1 {
        return Err(BtfError::Version(version));
    }
    let field = |at| u32_at(bytes, at).map(|value| value as usize).ok_or_else(cut);
    let header_len = field(4)?;
    if header_len < HEADER_LEN {
        return Err(cut());
    }
    // Newer kernels may have a longer header; what it adds is not needed here.
    let section = |start: usize, len: usize, what| {
        let start = header_len.checked_add(start);
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        range
            .filter(|range| range.end <= bytes.len())
            .ok_or(BtfError::Truncated(what))
    };
    let types = section(field(8)?, field(12)?, "types")?;
    let strings = section(field(16)?, field(20)?, "strings")?;
    Ok((types, strings))
}

/// Reads the record that starts at `at`, and says how long it is.
fn read_record(types: &[u8], at: usize, id: u32) -> Result<(Record<'_>, usize), BtfError> {
    let cut = || BtfError::Truncated("types");
    let rest = types.get(at..).ok_or_else(cut)?;
    let name = u32_at(rest, 0).ok_or_else(cut)?;
    let info = u32_at(rest, 4).ok_or_else(cut)?;
    let size_or_type = u32_at(rest, 8).ok_or_else(cut)?;
    let count = (info & 0xffff) as usize;
    let [.., upper] = info.to_le_bytes();
    let (kind, flag) = (upper & 0x1f, upper & 0x80 != 0);
    let extra_len = match kind {
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION => MEMBER_LEN * count,
        kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM => 8 * count,
        kind::FUNC_PROTO => PARAMETER_LEN * count,
        _ => return Err(BtfError::Kind { id, kind }),
    };
    let extra = rest.get(RECORD_LEN..RECORD_LEN + extra_len).ok_or_else(cut)?;
    let record = Record {
        name,
        kind,
        flag,
        size_or_type,
        extra,
    };
    Ok((record, RECORD_LEN + extra_len))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod builder;
#[cfg(test)]
mod tests;
