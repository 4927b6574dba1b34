//! Embeds the eBPF object that `cargo xtask build` made. A plain `cargo build` or `cargo test` needs neither
//! the object nor the tools that make it; the binary then says so when it is asked to trace.

fn main() {
    println!("cargo::rerun-if-env-changed=TRACER_EBPF_OBJECT");
    if let Some(object) = std::env::var_os("TRACER_EBPF_OBJECT") {
        let object = object.into_string().expect("TRACER_EBPF_OBJECT is not UTF-8");
        println!("cargo::rerun-if-changed={object}");
        println!("cargo::rustc-env=TRACER_EBPF_OBJECT={object}");
        println!("cargo::rustc-cfg=ebpf_object");
    }
}
