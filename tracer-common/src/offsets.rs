//! Where the running kernel keeps what the programs read.

/// Functions of the kernel that programs call by the id of their types. The object has placeholders instead, numbers of
/// helpers that will not be; the loader puts the ids in their place.
pub mod functions {
    /// `void *bpf_rdonly_cast(const void *obj, u32 btf_id)`: the address, to be loaded through as this type (6.2).
    pub const CAST: i32 = 0x7ffe_0001;

    /// Each with its name.
    pub const ALL: [(i32, &str); 1] = [(CAST, "bpf_rdonly_cast")];
}

/// An offset of a member that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets of members and positions of arguments in the running kernel.
///
/// The loader resolves them from BTF. A member that a kernel may lack (built without conntrack marks,
/// say) is [`ABSENT`], and the programs then leave the record's field zero and its flag unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// Position of the `struct sk_buff *` argument of `ipt_do_table` and `ip6t_do_table`, from 0.
    pub arg_skb: u32,
    /// Position of the `const struct nf_hook_state *` argument.
    pub arg_state: u32,
    /// Position of the `struct xt_table *` argument (declared `void *priv` since it is a hook function).
    pub arg_table: u32,

    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.end`, from `sk_buff.head`: where `struct skb_shared_info` is
    pub skb_end: u32,
    /// `skb_shared_info.frag_list`
    pub shared_frag_list: u32,
    /// `sk_buff.next`
    pub skb_next: u32,
    /// `sk_buff.data`
    pub skb_data: u32,
    /// `sk_buff.len`
    pub skb_len: u32,
    /// `sk_buff.data_len`
    pub skb_data_len: u32,
    /// `sk_buff.network_header`
    pub skb_network_header: u32,
    /// `sk_buff.mac_header`
    pub skb_mac_header: u32,
    /// `sk_buff.mark`
    pub skb_mark: u32,
    /// `sk_buff.sk`
    pub skb_sk: u32,
    /// `sk_buff.dev`
    pub skb_dev: u32,
    /// `sk_buff.active_extensions`; [`ABSENT`] without `CONFIG_SKB_EXTENSIONS`
    pub skb_active_extensions: u32,
    /// `sk_buff._nfct`; [`ABSENT`] without `CONFIG_NF_CONNTRACK`
    pub skb_nfct: u32,

    /// `sk_buff.extensions`
    pub skb_extensions: u32,
    /// `skb_ext.offset`
    pub extension_offset: u32,
    /// `nf_bridge_info.physindev`; [`ABSENT`] where the kernel keeps `physinif`
    pub bridge_physindev: u32,
    /// `nf_bridge_info.physinif` (6.8 and later, and stable kernels); [`ABSENT`] where it keeps `physindev`
    pub bridge_physinif: u32,
    /// `nf_bridge_info.physoutdev`; [`ABSENT`] without `CONFIG_BRIDGE_NETFILTER`
    pub bridge_physoutdev: u32,

    /// `nf_hook_state.hook`
    pub state_hook: u32,
    /// `nf_hook_state.in`
    pub state_in: u32,
    /// `nf_hook_state.out`
    pub state_out: u32,
    /// `nf_hook_state.net`
    pub state_net: u32,

    /// `net.ns.inum`
    pub net_inum: u32,

    /// `net_device.name`
    pub device_name: u32,
    /// `net_device.ifindex`
    pub device_ifindex: u32,
    /// `net_device.type`
    pub device_type: u32,
    /// `net_device.hard_header_len`
    pub device_hard_header_len: u32,

    /// `xt_table.private`
    pub table_private: u32,
    /// `xt_table.name`
    pub table_name: u32,

    /// `xt_table_info.entries`: offsets of rules count from here
    pub table_info_entries: u32,

    /// `tcphdr.ae`, in bits; [`ABSENT`] in kernels without AccECN
    pub tcp_ae: u32,

    /// `xt_action_param.matchinfo`, which is `targinfo` for a target
    pub param_info: u32,
    /// `xt_action_param.state`
    pub param_state: u32,
    /// `xt_action_param.hotdrop`
    pub param_hotdrop: u32,

    /// `nf_conn.status`; [`ABSENT`] without conntrack
    pub conntrack_status: u32,
    /// `nf_conn.mark`; [`ABSENT`] without `CONFIG_NF_CONNTRACK_MARK`
    pub conntrack_mark: u32,

    /// `nf_conn.tuplehash`; [`ABSENT`] without conntrack
    pub conntrack_tuplehash: u32,
    /// `nf_conntrack_tuple_hash.tuple`
    pub tuplehash_tuple: u32,

    /// `sock.__sk_common.skc_state`
    pub sock_state: u32,
    /// `sock.__sk_common.skc_net.net`
    pub sock_net: u32,
    /// `sock.sk_socket`
    pub sock_socket: u32,
    /// `socket.file`
    pub socket_file: u32,
    /// `file.f_cred`
    pub file_cred: u32,
    /// `cred.fsuid`
    pub cred_fsuid: u32,
    /// `cred.fsgid`
    pub cred_fsgid: u32,

    /// Position of the `struct nft_traceinfo *` argument of `__nft_trace_packet`, from 0; [`ABSENT`] without nf_tables
    pub arg_trace_info: u32,
    /// Position of its `const struct nft_pktinfo *` argument; [`ABSENT`] where `info` has it (up to 6.3)
    pub arg_trace_pkt: u32,
    /// Position of its `const struct nft_verdict *` argument; [`ABSENT`] where `info` has it
    pub arg_trace_verdict: u32,
    /// Position of its argument for the rule; [`ABSENT`] where `info` has it
    pub arg_trace_rule: u32,
    /// Position of its `const struct nft_chain *` argument; [`ABSENT`] where the rule leads to it
    pub arg_trace_chain: u32,
    /// Position of its `enum nft_trace_types` argument
    pub arg_trace_type: u32,
    /// `nft_traceinfo.pkt`
    pub trace_info_pkt: u32,
    /// `nft_traceinfo.verdict`
    pub trace_info_verdict: u32,
    /// `nft_traceinfo.rule`
    pub trace_info_rule: u32,
    /// `nft_pktinfo.skb`
    pub pkt_skb: u32,
    /// `nft_pktinfo.state`, before 5.14 `nft_pktinfo.xt.state`
    pub pkt_state: u32,
    /// Where in a rule, as `nft_do_chain` sees it, the word with its handle is
    pub rule_handle: u32,
    /// By how many bits the handle is shifted in that word
    pub rule_handle_shift: u32,
    /// `nft_rule_dp_last.chain`; [`ABSENT`] where the end of a chain is no rule (up to 6.3)
    pub rule_last_chain: u32,
    /// `nft_chain.table`
    pub chain_table: u32,
    /// `nft_chain.handle`
    pub chain_handle: u32,
    /// `nft_chain.name`
    pub chain_name: u32,
    /// `nft_table.handle`
    pub nft_table_handle: u32,
    /// `nft_table.name`
    pub nft_table_name: u32,
    /// The byte whose low six bits are `nft_table.family`
    pub nft_table_family: u32,
    /// `nf_hook_state.pf`
    pub state_pf: u32,
    /// `net.nft.gencursor`
    pub net_gencursor: u32,

    /// Id among the kernel's types of `struct timespec64`, whose two words are numbers, for whatever has no type that
    /// programs can name; [`ABSENT`] where they cannot say which type an address has (`bpf_rdonly_cast`, 6.2)
    pub type_words: u32,
}

impl Offsets {
    /// Every member absent: what the programs hold before the loader has spoken.
    pub const UNRESOLVED: Self = Self {
        arg_skb: ABSENT,
        arg_state: ABSENT,
        arg_table: ABSENT,
        skb_head: ABSENT,
        skb_end: ABSENT,
        shared_frag_list: ABSENT,
        skb_next: ABSENT,
        skb_data: ABSENT,
        skb_len: ABSENT,
        skb_data_len: ABSENT,
        skb_network_header: ABSENT,
        skb_mac_header: ABSENT,
        skb_mark: ABSENT,
        skb_sk: ABSENT,
        skb_dev: ABSENT,
        skb_active_extensions: ABSENT,
        skb_nfct: ABSENT,
        skb_extensions: ABSENT,
        extension_offset: ABSENT,
        bridge_physindev: ABSENT,
        bridge_physinif: ABSENT,
        bridge_physoutdev: ABSENT,
        state_hook: ABSENT,
        state_in: ABSENT,
        state_out: ABSENT,
        state_net: ABSENT,
        net_inum: ABSENT,
        device_name: ABSENT,
        device_ifindex: ABSENT,
        device_type: ABSENT,
        device_hard_header_len: ABSENT,
        table_private: ABSENT,
        table_name: ABSENT,
        table_info_entries: ABSENT,
        tcp_ae: ABSENT,
        param_info: ABSENT,
        param_state: ABSENT,
        param_hotdrop: ABSENT,
        conntrack_status: ABSENT,
        conntrack_mark: ABSENT,
        conntrack_tuplehash: ABSENT,
        tuplehash_tuple: ABSENT,
        sock_state: ABSENT,
        sock_net: ABSENT,
        sock_socket: ABSENT,
        socket_file: ABSENT,
        file_cred: ABSENT,
        cred_fsuid: ABSENT,
        cred_fsgid: ABSENT,
        arg_trace_info: ABSENT,
        arg_trace_pkt: ABSENT,
        arg_trace_verdict: ABSENT,
        arg_trace_rule: ABSENT,
        arg_trace_chain: ABSENT,
        arg_trace_type: ABSENT,
        trace_info_pkt: ABSENT,
        trace_info_verdict: ABSENT,
        trace_info_rule: ABSENT,
        pkt_skb: ABSENT,
        pkt_state: ABSENT,
        rule_handle: ABSENT,
        rule_handle_shift: ABSENT,
        rule_last_chain: ABSENT,
        chain_table: ABSENT,
        chain_handle: ABSENT,
        chain_name: ABSENT,
        nft_table_handle: ABSENT,
        nft_table_name: ABSENT,
        nft_table_family: ABSENT,
        state_pf: ABSENT,
        net_gencursor: ABSENT,
        type_words: ABSENT,
    };
}

const _: () = assert!(size_of::<Offsets>() == 72 * 4);
