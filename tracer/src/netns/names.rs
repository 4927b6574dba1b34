//! What this machine calls a network namespace: the pod or container whose processes are in it, or the name that
//! `ip netns` or a container runtime gave it. Only files are read.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{entries, leads_to, named, processes};
use crate::names::cgroup::{Container, Owner, name_of_docker, pod_of_logs};

/// How long what a look around has found is good. A namespace's number is used again at once, so that one of them
/// still leads there is seen more often.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How often it is seen whether a namespace is still there.
const CHECKED_EVERY: Duration = Duration::from_millis(100);
/// Names of containers and pods remembered.
const NAMES_MAX: usize = 4096;

/// Looks names up, those of all namespaces at once.
#[derive(Debug)]
pub struct NamespaceNames {
    root: PathBuf,
    own: Option<u32>,
    known: HashMap<u32, Known>,
    /// Those that were asked for and have none.
    nameless: HashSet<u32>,
    looked: Option<Instant>,
    /// What runtimes call a container, by its id, and a pod, by its UID. Neither is ever another one's.
    containers: HashMap<String, Option<String>>,
    pods: HashMap<String, String>,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    /// A path that leads to the namespace as long as it is the same.
    place: PathBuf,
    checked: Instant,
}

impl NamespaceNames {
    /// Those of the machine with this root directory; tracer's own namespace needs no name.
    #[must_use]
    pub fn of(root: &Path, own: Option<u32>) -> Self {
        Self {
            root: root.to_owned(),
            own,
            known: HashMap::new(),
            nameless: HashSet::new(),
            looked: None,
            containers: HashMap::new(),
            pods: HashMap::new(),
        }
    }

    /// The name of the namespace with this inode number; `None` if it has none.
    pub fn of_inode(&mut self, netns: u32) -> Option<Arc<str>> {
        if self.own == Some(netns) {
            return None;
        }
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then);
        let is_good = self.looked.is_some_and(|looked| since(looked) < GOOD_FOR);
        if is_good && let Some(known) = self.known.get_mut(&netns) {
            if since(known.checked) >= CHECKED_EVERY {
                known.checked = now;
                if !leads_to(&known.place, netns) {
                    self.look(now);
                }
            }
        } else if !is_good || !self.nameless.contains(&netns) {
            self.look(now);
        }
        let name = self.known.get(&netns).map(|known| Arc::clone(&known.name));
        if name.is_none() {
            self.nameless.insert(netns);
        }
        name
    }

    /// Looks at every process and every name once.
    fn look(&mut self, now: Instant) {
        self.looked = Some(now);
        self.known.clear();
        self.nameless.clear();
        let inode = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            u32::try_from(found.ino()).ok()
        };
        // The machine's own is no container's, though some are in it.
        let machine = inode(&self.root.join("proc/1/ns/net"));
        let mut containers: HashMap<u32, (PathBuf, Vec<Container>)> = HashMap::new();
        for process in processes(&self.root) {
            let place = process.join("ns/net");
            let Some(netns) =
                inode(&place).filter(|netns| Some(*netns) != machine && Some(*netns) != self.own)
            else {
                continue;
            };
            let group = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
            if let Some(container) = Container::of(&group) {
                let (_, all) = containers.entry(netns).or_insert_with(|| (place, Vec::new()));
                all.push(container);
            }
        }
        for place in named(&self.root) {
            if let (Some(netns), Some(name)) = (inode(&place), place.file_name()) {
                let name = name.to_string_lossy().as_ref().into();
                let known = Known {
                    name,
                    place,
                    checked: now,
                };
                self.known.entry(netns).or_insert(known);
            }
        }
        for (netns, (place, all)) in containers {
            if let Some(owner) = self.owner(all) {
                let known = Known {
                    name: owner.to_string().into(),
                    place,
                    checked: now,
                };
                self.known.insert(netns, known);
            }
        }
    }

    fn owner(&mut self, all: Vec<Container>) -> Option<Owner> {
        let Self {
            root,
            containers,
            pods,
            ..
        } = self;
        if containers.len() >= NAMES_MAX {
            containers.clear();
        }
        if pods.len() >= NAMES_MAX {
            pods.clear();
        }
        let mut container_name = |id: &str| {
            let read = || {
                let config = root
                    .join("var/lib/docker/containers")
                    .join(id)
                    .join("config.v2.json");
                name_of_docker(&fs::read_to_string(config).ok()?)
            };
            containers.entry(id.to_owned()).or_insert_with(read).clone()
        };
        let mut pod_name = |uid: &str| {
            if let Some(name) = pods.get(uid) {
                return Some(name.clone());
            }
            let mut logs = entries(&root.join("var/log/pods"));
            let name = logs.find_map(|logs| pod_of_logs(logs.file_name()?.to_str()?, uid))?;
            pods.insert(uid.to_owned(), name.clone());
            Some(name)
        };
        Owner::of(all, &mut container_name, &mut pod_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";

    /// A machine with files for namespaces.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) -> u32 {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            u32::try_from(fs::metadata(path).unwrap().ino()).unwrap()
        }

        /// A process in a namespace of its own.
        fn process(&self, pid: u32, group: &str) -> u32 {
            self.file(&format!("proc/{pid}/cgroup"), group);
            self.file(&format!("proc/{pid}/ns/net"), "")
        }

        fn names(&self, own: Option<u32>) -> NamespaceNames {
            NamespaceNames::of(self.0.path(), own)
        }
    }

    #[test]
    fn a_namespace_has_the_name_of_its_pod_container_or_file() {
        let machine = Machine::new();
        let group = format!("0::/docker/{ID}");
        let own = machine.process(1, &group);
        let docker = machine.process(20, &group);
        let pod = machine.process(30, &format!("0::/kubepods/pod{UID}/{ID}"));
        let none = machine.process(40, "0::/user.slice");
        let named = machine.file("run/netns/blue", "");
        machine.file(
            &format!("var/lib/docker/containers/{ID}/config.v2.json"),
            "{\"Name\":\"/web\"}",
        );
        fs::create_dir_all(machine.0.path().join(format!("var/log/pods/default_web-1_{UID}"))).unwrap();
        let mut names = machine.names(None);
        let mut name = |netns| names.of_inode(netns).map(|name| name.to_string());
        assert_eq!(name(docker).unwrap(), "container web");
        assert_eq!(name(pod).unwrap(), "pod default/web-1");
        assert_eq!(name(named).unwrap(), "blue");
        assert_eq!(name(none), None);
        // A container of the machine's own namespace does not give it a name.
        assert_eq!(name(own), None);
        assert_eq!(machine.names(Some(docker)).of_inode(docker), None);
    }

    #[test]
    fn a_namespace_that_is_gone_has_no_name_any_more() {
        let machine = Machine::new();
        let docker = machine.process(20, &format!("0::/docker/{ID}"));
        let mut names = machine.names(None);
        assert_eq!(names.of_inode(docker).as_deref(), Some("container 0123456789ab"));
        fs::remove_dir_all(machine.0.path().join("proc/20")).unwrap();
        // As if time had passed.
        for known in names.known.values_mut() {
            known.checked = known.checked.checked_sub(CHECKED_EVERY).unwrap();
        }
        assert_eq!(names.of_inode(docker), None);
    }
}
