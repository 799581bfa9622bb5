//! Graphs: nodes with dependencies, and the executable form that launches submit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    abi::Handle,
    driver::{Mark, Tables},
    result::{GRAPH_UPDATE_FAILURE, INVALID_VALUE, NOT_SUPPORTED, Result},
};
use crate::core::work::Work;

/// `CUgraphNodeType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum NodeKind {
    Kernel = 0,
    Memcpy = 1,
    Memset = 2,
    Host = 3,
    Graph = 4,
    Empty = 5,
    WaitEvent = 6,
    EventRecord = 7,
    MemoryAllocation = 10,
    MemoryFree = 11,
    BatchMemoryOperation = 12,
}

/// What a node does.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// In this order; nothing = an empty node.
    Work(Vec<Work>),
    /// A graph that belongs to the node.
    Graph(Handle),
    /// A graph that nothing changes any more.
    Child(Arc<Flat>),
    Record(Handle),
    WaitEvent(Handle),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) body: Body,
    /// Nodes that come before.
    pub(crate) after: Vec<Handle>,
}

/// By handle, so in the order of creation.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: BTreeMap<Handle, Node>,
}

/// A graph in an order in which it can be executed; independent of the graph that it came from.
#[derive(Debug)]
pub(crate) struct Flat {
    pub(crate) nodes: Vec<FlatNode>,
}

#[derive(Debug)]
pub(crate) struct FlatNode {
    handle: Handle,
    pub(crate) kind: NodeKind,
    pub(crate) body: Body,
    /// Indices of nodes that come before.
    pub(crate) after: Vec<usize>,
}

pub(crate) struct Executable {
    flat: Arc<Flat>,
    last: Option<Mark>,
}

/// Why an executable graph could not take over another graph: `CUgraphExecUpdateResult`, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) result: u32,
    pub(crate) node: Handle,
}

const TOPOLOGY_CHANGED: u32 = 2;
const NODE_TYPE_CHANGED: u32 = 3;

impl Graph {
    /// An error if the dependencies form a circle. `child` flattens graphs that belong to nodes.
    fn flatten(&self, child: &dyn Fn(Handle) -> Result<Flat>) -> Result<Flat> {
        let mut done: HashMap<Handle, usize> = HashMap::new();
        let mut nodes = Vec::new();
        while nodes.len() < self.nodes.len() {
            let before = nodes.len();
            for (&handle, node) in &self.nodes {
                let after: Option<Vec<_>> = node
                    .after
                    .iter()
                    .map(|node| done.get(node).copied())
                    .collect();
                if let Some(after) = after.filter(|_| !done.contains_key(&handle)) {
                    done.insert(handle, nodes.len());
                    let body = match &node.body {
                        Body::Graph(graph) => Body::Child(Arc::new(child(*graph)?)),
                        body => body.clone(),
                    };
                    nodes.push(FlatNode {
                        handle,
                        kind: node.kind,
                        body,
                        after,
                    });
                }
            }
            if nodes.len() == before {
                return Err(INVALID_VALUE);
            }
        }
        Ok(Flat { nodes })
    }
}

impl Flat {
    /// Asks `check` about the work of every node.
    pub(crate) fn check(&self, check: &dyn Fn(&[Work]) -> Result<()>) -> Result<()> {
        self.nodes.iter().try_for_each(|node| match &node.body {
            Body::Work(work) => check(work),
            Body::Child(child) => child.check(check),
            _ => Ok(()),
        })
    }

    /// Whether `other` has the same shape, so that a launch may execute it instead.
    fn fits(&self, other: &Self) -> std::result::Result<(), Misfit> {
        let misfit = |result, node| Err(Misfit { result, node });
        if self.nodes.len() != other.nodes.len() {
            return misfit(TOPOLOGY_CHANGED, 0);
        }
        for (mine, theirs) in self.nodes.iter().zip(&other.nodes) {
            if mine.kind != theirs.kind {
                return misfit(NODE_TYPE_CHANGED, theirs.handle);
            }
            if mine.after != theirs.after {
                return misfit(TOPOLOGY_CHANGED, theirs.handle);
            }
            match (&mine.body, &theirs.body) {
                (Body::Child(mine), Body::Child(theirs)) => mine.fits(theirs)?,
                (Body::Work(mine), Body::Work(other)) if mine.len() != other.len() => {
                    return misfit(TOPOLOGY_CHANGED, theirs.handle);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it may be launched from the device, which takes few kinds of nodes.
    fn suits_the_device(&self) -> bool {
        self.nodes.iter().all(|node| match &node.body {
            Body::Child(child) => child.suits_the_device(),
            _ => matches!(
                node.kind,
                NodeKind::Kernel | NodeKind::Memcpy | NodeKind::Memset
            ),
        })
    }

    /// Events that nodes wait for.
    fn waits(&self, list: &mut Vec<Handle>) {
        for node in &self.nodes {
            match &node.body {
                Body::WaitEvent(event) => list.push(*event),
                Body::Child(child) => child.waits(list),
                Body::Work(_) | Body::Record(_) | Body::Graph(_) => {}
            }
        }
    }
}

impl Tables {
    fn flatten(&self, graph: Handle) -> Result<Flat> {
        let graph = self.graphs.get(&graph).ok_or(INVALID_VALUE)?;
        graph.flatten(&|child| self.flatten(child))
    }

    /// A copy with nodes of its own, and its nodes' graphs likewise.
    pub(crate) fn clone_graph(&mut self, graph: Handle) -> Result<Handle> {
        let original = self.graph(graph)?.clone();
        let renamed: HashMap<_, _> = {
            let nodes: Vec<_> = original.nodes.keys().copied().collect();
            nodes
                .into_iter()
                .map(|node| (node, self.handle()))
                .collect()
        };
        let mut copy = Graph::default();
        for (handle, mut node) in original.nodes {
            for before in &mut node.after {
                *before = renamed[before];
            }
            if let Body::Graph(child) = &mut node.body {
                *child = self.clone_graph(*child)?;
            }
            copy.nodes.insert(renamed[&handle], node);
        }
        let handle = self.handle();
        self.graphs.insert(handle, copy);
        Ok(handle)
    }

    /// Takes a graph away, with those of its nodes.
    pub(crate) fn drop_graph(&mut self, graph: Handle) -> Result<()> {
        let graph = self.graphs.remove(&graph).ok_or(INVALID_VALUE)?;
        for (handle, node) in graph.nodes {
            self.shown.remove(&handle);
            if let Body::Graph(child) = node.body {
                self.drop_graph(child)?;
            }
        }
        Ok(())
    }

    pub(crate) fn instantiate(&mut self, graph: Handle, from_device: bool) -> Result<Handle> {
        let flat = Arc::new(self.flatten(graph)?);
        if from_device && !flat.suits_the_device() {
            return Err(NOT_SUPPORTED);
        }
        let handle = self.handle();
        self.executables
            .insert(handle, Executable { flat, last: None });
        Ok(handle)
    }

    /// Makes the executable do what `graph` does; the misfit if it cannot.
    pub(crate) fn update(
        &mut self,
        executable: Handle,
        graph: Handle,
    ) -> Result<std::result::Result<(), Misfit>> {
        let flat = self.flatten(graph)?;
        let executable = self.executables.get_mut(&executable).ok_or(INVALID_VALUE)?;
        let verdict = executable.flat.fits(&flat);
        if verdict.is_ok() {
            // Launches under way keep what they were launched with.
            executable.flat = Arc::new(flat);
        }
        Ok(verdict)
    }

    pub(crate) fn flat(&self, executable: Handle) -> Result<Arc<Flat>> {
        let executable = self.executables.get(&executable).ok_or(INVALID_VALUE)?;
        Ok(Arc::clone(&executable.flat))
    }

    pub(crate) fn last_launch(&self, executable: Handle) -> Result<Option<Mark>> {
        let executable = self.executables.get(&executable).ok_or(INVALID_VALUE)?;
        Ok(executable.last.clone())
    }

    pub(crate) fn launched(&mut self, executable: Handle, mark: Mark) {
        if let Some(executable) = self.executables.get_mut(&executable) {
            executable.last = Some(mark);
        }
    }

    /// The events that the graph's nodes wait for, where recorded.
    pub(crate) fn event_marks(&self, flat: &Flat) -> Vec<(Handle, Mark)> {
        let mut waits = Vec::new();
        flat.waits(&mut waits);
        let known = waits.into_iter().filter_map(|event| {
            let mark = self.events.get(&event)?.mark.clone()?;
            Some((event, mark))
        });
        known.collect()
    }

    /// Adds a node to a graph that the client builds itself.
    pub(crate) fn add_node(
        &mut self,
        graph: Handle,
        kind: NodeKind,
        body: Body,
        after: Vec<Handle>,
    ) -> Result<Handle> {
        let node = self.handle();
        let nodes = &mut self.graph(graph)?.nodes;
        if after.iter().any(|node| !nodes.contains_key(node)) {
            return Err(INVALID_VALUE);
        }
        nodes.insert(node, Node { kind, body, after });
        Ok(node)
    }

    /// The node, in whichever graph.
    pub(crate) fn node(&mut self, handle: Handle) -> Result<&mut Node> {
        let mut graphs = self.graphs.values_mut();
        let node = graphs.find_map(|graph| graph.nodes.get_mut(&handle));
        node.ok_or(INVALID_VALUE)
    }
}

/// What a refused update returns.
pub(crate) const REFUSED: super::result::Error = GRAPH_UPDATE_FAILURE;

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: &[(Handle, NodeKind, &[Handle])]) -> Graph {
        let node = |kind, after: &[Handle]| Node {
            kind,
            body: Body::Work(Vec::new()),
            after: after.to_vec(),
        };
        let nodes = nodes.iter();
        let nodes = nodes.map(|&(handle, kind, after)| (handle, node(kind, after)));
        Graph {
            nodes: nodes.collect(),
        }
    }

    use NodeKind::{Empty, Kernel};

    fn no_child(_: Handle) -> Result<Flat> {
        Err(INVALID_VALUE)
    }

    #[test]
    fn dependencies_come_first_and_circles_are_refused() {
        let flat = graph(&[(1, Kernel, &[3]), (2, Kernel, &[1]), (3, Kernel, &[])]);
        let order: Vec<_> = flat
            .flatten(&no_child)
            .unwrap()
            .nodes
            .iter()
            .map(|n| n.handle)
            .collect();
        assert_eq!(order, [3, 1, 2]);
        let circle = graph(&[(1, Kernel, &[2]), (2, Kernel, &[1])]);
        assert_eq!(circle.flatten(&no_child).err(), Some(INVALID_VALUE));
    }

    #[test]
    fn an_update_must_keep_the_shape() {
        let check = |other: Graph, expected| {
            let one = graph(&[(1, Kernel, &[]), (2, Kernel, &[1])])
                .flatten(&no_child)
                .unwrap();
            let verdict = one.fits(&other.flatten(&no_child).unwrap());
            assert_eq!(verdict.err().map(|misfit| misfit.result), expected);
        };
        check(graph(&[(11, Kernel, &[]), (12, Kernel, &[11])]), None);
        check(
            graph(&[(11, Kernel, &[]), (12, Kernel, &[])]),
            Some(TOPOLOGY_CHANGED),
        );
        check(
            graph(&[(11, Kernel, &[]), (12, Empty, &[11])]),
            Some(NODE_TYPE_CHANGED),
        );
        check(graph(&[(11, Kernel, &[])]), Some(TOPOLOGY_CHANGED));
    }
}
