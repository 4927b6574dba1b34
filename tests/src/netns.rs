//! Network namespaces: one for each test, and named ones for pods and neighbours.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::command;

/// Runs something in a new network namespace in which only `lo` is, and is up.
///
/// It runs in a thread of its own, so the caller stays where it is. Tools that it starts are in the
/// namespace as well. Mind that `/proc/net` shows the namespace of the process' first thread;
/// `/proc/thread-self/net` shows this one.
///
/// # Errors
///
/// Those of `body`, and when the kernel refuses a namespace.
pub fn isolated<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("failed to create network namespace")?;
        loopback_up()?;
        body()
    })
}

/// Where `ip netns` keeps the namespaces that have a name.
const NAMED: &str = "/run/netns";

fn path(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}

mod request {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// Sets `lo` up in the current network namespace.
fn loopback_up() -> Result<()> {
    set_flags("lo", libc::IFF_UP).context("failed to set up: lo")
}

/// Sets a device of the current network namespace down.
///
/// # Errors
///
/// When there is no such device.
pub fn set_down(device: &str) -> Result<()> {
    set_flags(device, 0).with_context(|| format!("failed to set down: {device}"))
}

fn set_flags(device: &str, flags: libc::c_int) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.as_bytes()) {
        *to = libc::c_char::try_from(*from)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    // SAFETY: the pointer is to a live ifreq.
    unsafe { request::set_interface_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// A thread for something that changes the thread's namespace; a panic goes on in the caller.
fn in_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let home = File::open("/proc/thread-self/ns/net").context("failed to open: /proc/thread-self/ns/net")?;
    // A thread that has been waited for may still be on its way out, and would keep the namespace alive.
    let and_home = || {
        let result = body();
        let entered = Door(home).enter();
        result.and_then(|result| entered.map(|()| result))
    };
    thread::scope(|scope| {
        scope
            .spawn(and_home)
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// A named network namespace, deleted when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace in which `lo` is up.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the name is taken.
    pub fn new(name: &str) -> Result<Self> {
        let path = path(name);
        let failed = || format!("failed to create network namespace: {name}");
        fs::create_dir_all(NAMED).with_context(failed)?;
        File::create_new(&path).with_context(failed)?;
        let namespace = Self {
            name: name.to_owned(),
        };
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).with_context(failed)?;
            let own = "/proc/thread-self/ns/net";
            mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(failed)?;
            loopback_up()
        })?;
        Ok(namespace)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    ///
    /// When `ip` does.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::run(&format!("ip -n {} {arguments}", self.name))
    }

    /// Runs a tool in it.
    ///
    /// # Errors
    ///
    /// When the tool does.
    pub fn run(&self, line: &str) -> Result<String> {
        command::run(&format!("ip netns exec {} {line}", self.name))
    }

    /// A command that will run in it. `ip` becomes the program, so the process is the one that is started.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs something in it, in a thread of its own.
    ///
    /// # Errors
    ///
    /// Those of `body`, and when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let door = self.door()?;
        in_thread(|| {
            door.enter()?;
            body()
        })
    }

    /// What a thread may enter it by that will stay there.
    ///
    /// # Errors
    ///
    /// When the namespace is gone.
    pub fn door(&self) -> Result<Door> {
        let path = path(&self.name);
        let file = File::open(&path).with_context(|| format!("failed to open: {}", path.display()))?;
        Ok(Door(file))
    }

    /// Connects the current namespace with this one: device `outside` here, `inside` there, both up.
    ///
    /// # Errors
    ///
    /// When `ip` does.
    pub fn veth(&self, outside: &str, inside: &str) -> Result<()> {
        command::run(&format!(
            "ip link add {outside} type veth peer name {inside} netns {}",
            self.name
        ))?;
        command::run(&format!("ip link set {outside} up"))?;
        self.ip(&format!("link set {inside} up")).map(drop)
    }
}

/// A way into a namespace, which it keeps alive.
#[derive(Debug)]
pub struct Door(File);

impl Door {
    /// Moves the calling thread into the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn enter(self) -> Result<()> {
        setns(self.0, CloneFlags::CLONE_NEWNET).context("failed to enter network namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left behind would only be found by a namespace of the same name, which says so.
        let path = path(&self.name);
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        drop(fs::remove_file(&path));
    }
}

/// What two nodes are connected with: a hub in a network namespace of its own. It hands every packet on as a copy, for
/// it has a third port at which the packet itself ends; so each node has a `sk_buff` of its own.
#[derive(Debug)]
pub struct Wire {
    _hub: Namespace,
}

impl Wire {
    /// Connects the current namespace with another one, by a device of the same name in both.
    ///
    /// # Errors
    ///
    /// When `ip` does.
    pub fn new(other: &Namespace, device: &str) -> Result<Self> {
        let hub = Namespace::new("wire")?;
        hub.ip("link add hub type bridge ageing_time 0 mcast_snooping 0")?;
        // The port that was added first is served last, with the packet itself (`br_flood`, `net/bridge/br_forward.c`).
        hub.ip("link add sink type dummy")?;
        hub.veth(device, "near")?;
        other.enter(|| hub.veth(device, "far"))?;
        for port in ["sink", "near", "far"] {
            hub.ip(&format!("link set {port} master hub up"))?;
        }
        hub.ip("link set hub up")?;
        Ok(Self { _hub: hub })
    }
}

/// Adds a device without anything behind it, up and with an address (`192.168.0.1/24`).
///
/// # Errors
///
/// When `ip` does.
pub fn dummy(device: &str, address: &str) -> Result<()> {
    command::run(&format!("ip link add {device} type dummy"))?;
    command::run(&format!("ip address add {address} dev {device}"))?;
    command::run(&format!("ip link set {device} up")).map(drop)
}
