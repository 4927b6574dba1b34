//! What the machine knows of the other ends of devices: pods, containers, namespaces with a name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::command::{Running, run};
use crate::neighbours::Family;
use crate::netns::Namespace;
use crate::tracer::{Tracer, exit, show};
use crate::traffic::{Place, settle};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("places::a_pod_by_its_processes", a_pod_by_its_processes),
        trial("places::a_namespace_by_its_name", a_namespace_by_its_name),
    ]
}

const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A control group, removed when this is dropped, with those that it is in.
struct Group(PathBuf);

impl Group {
    fn new(path: &str) -> Result<Self> {
        let path = Path::new("/sys/fs/cgroup").join(path);
        fs::create_dir_all(&path).with_context(|| format!("failed to create: {}", path.display()))?;
        Ok(Self(path))
    }

    /// Moves a process into it.
    fn take(&self, process: &Running) -> Result<()> {
        let path = self.0.join("cgroup.procs");
        fs::write(&path, process.0.id().to_string())
            .with_context(|| format!("failed to write: {}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The first that is not empty is somebody else's.
        let mut path = self.0.as_path();
        while fs::remove_dir(path).is_ok()
            && let Some(above) = path.parent()
        {
            path = above;
        }
    }
}

/// A namespace with a table, behind a veth.
fn pod() -> Result<Namespace> {
    const TABLE: &str = "*filter\nCOMMIT\n";

    let pod = Namespace::new("pod")?;
    pod.veth("veth0", "eth0")?;
    run("ip address add 10.0.0.1/24 dev veth0")?;
    pod.ip("address add 10.0.0.2/24 dev eth0")?;
    Family::V4.restore(TABLE)?;
    pod.enter(|| Family::V4.restore(TABLE))?;
    Ok(pod)
}

/// Live and of a recording, which is shown when all of it is gone.
fn names_it(pod: Namespace, rest: impl Sized, name: &str) -> Result<()> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let file = directory.path().join("pod.rec").display().to_string();
    let tracer = Tracer::start(&format!("-p icmp --format tree --write {file}"))?;
    Place::There(&pod).ping("10.0.0.1".parse().context("failed to read address")?, 20)?;
    settle()?;
    let live = tracer.stop_as_text()?;
    drop(rest);
    drop(pod);
    let device = format!("INPUT ACCEPT in=veth0 ({name}) ");
    let inside = format!("({name}) ");
    let is_inside = |line: &&str| line.contains("OUTPUT ACCEPT out=eth0 ") && line.contains(&inside);
    ensure!(
        live.shown.contains(&device) && live.shown.lines().any(|line| is_inside(&line)),
        "{}",
        live.shown
    );
    let (code, recorded) = show(&format!("{file} --format tree"))?;
    ensure!(code == Some(exit::DONE), "{}", recorded.said);
    ensure!(
        live.shown == recorded.shown,
        "seen:\n{}\nrecorded:\n{}",
        live.shown,
        recorded.shown
    );
    let (_, json) = show(&format!("{file} --format json"))?;
    ensure!(
        json.shown
            .contains(&format!("\"in\":\"veth0\",\"in_peer\":\"{name}\"")),
        "{}",
        json.shown
    );
    Ok(())
}

/// A process in the namespace and in a pod's control group; the kubelet's directory of logs has the pod's name.
fn a_pod_by_its_processes() -> Result<()> {
    let pod = pod()?;
    let logs = format!("/var/log/pods/default_web-1_{UID}");
    fs::create_dir_all(&logs).with_context(|| format!("failed to create: {logs}"))?;
    let group = Group::new(&format!("kubepods/besteffort/pod{UID}/{ID}"))?;
    let mut command = pod.command("busybox");
    let process = Running(
        command
            .args(["sleep", "1000"])
            .spawn()
            .context("failed to start: sleep")?,
    );
    group.take(&process)?;
    let of = |path: &str| fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::ino(&found));
    let own = format!("/proc/{}/ns/net", process.0.id());
    wait::until("the pod's process to be in its namespace", || {
        Ok(of(&own).context("failed to find process")?
            == of("/run/netns/pod").context("failed to find pod")?)
    })?;
    // The process has to be gone before the group can be.
    names_it(pod, (process, group), "pod default/web-1")
}

/// Without processes it has the name that `ip netns` gave it.
fn a_namespace_by_its_name() -> Result<()> {
    names_it(pod()?, (), "pod")
}
