//! Entry points on graphs.

use super::{
    abi::{
        Handle, In, InstantiateParams, KernelNode, MemoryOperation, MemoryOperationsNode,
        MemoryOperationsShown, Out, UpdateResult,
    },
    api,
    driver::Driver,
    graph::{Body, Graph, NodeKind, REFUSED},
    result::{CAPTURE_UNSUPPORTED, INVALID_VALUE, Result},
    stream_api,
};

impl Driver {
    fn add_kernel(
        &self,
        node: Out<Handle>,
        graph: Handle,
        after: Vec<Handle>,
        parameters: In<KernelNode>,
    ) -> Result<()> {
        let parameters = parameters.get()?;
        let work = self.kernel(parameters.function, parameters.parameters, parameters.extra)?;
        let mut tables = self.tables();
        node.set(tables.add_node(graph, NodeKind::Kernel, Body::Work(vec![work]), after)?)
    }

    fn instantiate(&self, executable: Out<Handle>, graph: Handle, flags: u64) -> Result<()> {
        const DEVICE_LAUNCH: u64 = 4;
        if executable.is_null() {
            return Err(INVALID_VALUE);
        }
        let mut tables = self.tables();
        if tables
            .captures
            .values()
            .any(|capture| capture.graph == graph)
        {
            return Err(CAPTURE_UNSUPPORTED);
        }
        executable.set(tables.instantiate(graph, flags & DEVICE_LAUNCH != 0)?)
    }

    /// `CUgraphExecUpdateResult`, and the node where it went wrong.
    fn update_executable(&self, executable: Handle, graph: Handle) -> Result<(u32, Handle)> {
        let verdict = self.tables().update(executable, graph)?;
        Ok(verdict.map_or_else(|misfit| (misfit.result, misfit.node), |()| (0, 0)))
    }

    /// Lists handles into an array whose length is given and returned in `count`.
    fn list(&self, handles: &[Handle], list: Out<Handle>, count: Out<usize>) -> Result<()> {
        if list.is_null() {
            return count.set(handles.len());
        }
        let room = count.get()?;
        let mut padded = handles.to_vec();
        padded.resize(room.max(handles.len()), 0);
        list.set_all(&padded, room)?;
        count.set(room.min(handles.len()))
    }

    fn edges(&self, graph: Handle) -> Result<Vec<(Handle, Handle)>> {
        let mut tables = self.tables();
        let nodes = tables.graph(graph)?.nodes.iter();
        let edges = nodes.flat_map(|(&to, node)| node.after.iter().map(move |&from| (from, to)));
        Ok(edges.collect())
    }

    fn list_edges(
        &self,
        graph: Handle,
        from: Out<Handle>,
        to: Out<Handle>,
        count: Out<usize>,
    ) -> Result<()> {
        let edges = self.edges(graph)?;
        let (starts, ends): (Vec<_>, Vec<_>) = edges.into_iter().unzip();
        if !from.is_null() && !to.is_null() {
            from.set_all(&starts, count.get()?)?;
        }
        self.list(&ends, to, count)
    }

    fn add_edges(&self, graph: Handle, from: &[Handle], to: &[Handle]) -> Result<()> {
        let mut tables = self.tables();
        let nodes = &mut tables.graph(graph)?.nodes;
        for (from, to) in from.iter().zip(to) {
            if !nodes.contains_key(from) {
                return Err(INVALID_VALUE);
            }
            let after = &mut nodes.get_mut(to).ok_or(INVALID_VALUE)?.after;
            if after.contains(from) {
                return Err(INVALID_VALUE);
            }
            after.push(*from);
        }
        Ok(())
    }
}

api! {
    fn cuGraphCreate(graph: Out<Handle>, _flags: u32) |driver| {
        let mut tables = driver.tables();
        let handle = tables.handle();
        tables.graphs.insert(handle, Graph::default());
        graph.set(handle)
    }
    fn cuGraphDestroy(graph: Handle) |driver| {
        driver.tables().drop_graph(graph)
    }
    fn cuGraphClone(clone: Out<Handle>, graph: Handle) |driver| {
        clone.set(driver.tables().clone_graph(graph)?)
    }
    fn cuGraphAddKernelNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, parameters: In<KernelNode>,
    ) |driver| {
        driver.add_kernel(node, graph, after.list(count)?, parameters)
    }
    fn cuGraphAddKernelNode_v2(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, parameters: In<KernelNode>,
    ) |driver| {
        driver.add_kernel(node, graph, after.list(count)?, parameters)
    }
    fn cuGraphAddEmptyNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
    ) |driver| {
        let after = after.list(count)?;
        let mut tables = driver.tables();
        node.set(tables.add_node(graph, NodeKind::Empty, Body::Work(Vec::new()), after)?)
    }
    fn cuGraphAddChildGraphNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle,
    ) |driver| {
        let after = after.list(count)?;
        let mut tables = driver.tables();
        let child = tables.clone_graph(child)?;
        node.set(tables.add_node(graph, NodeKind::Graph, Body::Graph(child), after)?)
    }
    fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: Out<Handle>) |driver| {
        match driver.tables().node(node)?.body {
            Body::Graph(child) => graph.set(child),
            _ => Err(INVALID_VALUE),
        }
    }
    fn cuGraphBatchMemOpNodeGetParams(node: Handle, parameters: Out<MemoryOperationsShown>) |driver| {
        let mut tables = driver.tables();
        let list: Box<[MemoryOperation]> = match &tables.node(node)?.body {
            Body::Work(work) => work.iter().filter_map(stream_api::operation_of).collect(),
            _ => return Err(INVALID_VALUE),
        };
        let shown = MemoryOperationsShown {
            context: 0,
            count: u32::try_from(list.len()).map_err(|_| INVALID_VALUE)?,
            list: list.as_ptr().expose_provenance(),
            flags: 0,
        };
        tables.shown.insert(node, list);
        parameters.set(shown)
    }
    fn cuGraphAddBatchMemOpNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        parameters: In<MemoryOperationsNode>,
    ) |driver| {
        let after = after.list(count)?;
        let parameters = parameters.get()?;
        if parameters.flags != 0 {
            return Err(INVALID_VALUE);
        }
        driver.tables().context(parameters.context)?;
        let list = parameters.list.list(parameters.count as usize)?;
        let work = list.iter().map(|operation| driver.memory_operation(operation));
        let work = work.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
        let mut tables = driver.tables();
        node.set(tables.add_node(graph, NodeKind::BatchMemoryOperation, Body::Work(work), after)?)
    }
    fn cuGraphAddEventRecordNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle,
    ) |driver| {
        let after = after.list(count)?;
        let mut tables = driver.tables();
        tables.event(event)?;
        node.set(tables.add_node(graph, NodeKind::EventRecord, Body::Record(event), after)?)
    }
    fn cuGraphAddEventWaitNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle,
    ) |driver| {
        let after = after.list(count)?;
        let mut tables = driver.tables();
        tables.event(event)?;
        node.set(tables.add_node(graph, NodeKind::WaitEvent, Body::WaitEvent(event), after)?)
    }
    fn cuGraphAddDependencies(
        graph: Handle, from: In<Handle>, to: In<Handle>, count: usize,
    ) |driver| {
        driver.add_edges(graph, &from.list(count)?, &to.list(count)?)
    }
    fn cuGraphAddDependencies_v2(
        graph: Handle, from: In<Handle>, to: In<Handle>, _data: In<u64>, count: usize,
    ) |driver| {
        driver.add_edges(graph, &from.list(count)?, &to.list(count)?)
    }
    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) |driver| {
        let handles: Vec<_> = driver.tables().graph(graph)?.nodes.keys().copied().collect();
        driver.list(&handles, nodes, count)
    }
    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) |driver| {
        let handles: Vec<_> = {
            let mut tables = driver.tables();
            let nodes = tables.graph(graph)?.nodes.iter();
            nodes.filter(|(_, node)| node.after.is_empty()).map(|(&handle, _)| handle).collect()
        };
        driver.list(&handles, nodes, count)
    }
    fn cuGraphGetEdges(
        graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>,
    ) |driver| {
        driver.list_edges(graph, from, to, count)
    }
    fn cuGraphGetEdges_v2(
        graph: Handle, from: Out<Handle>, to: Out<Handle>, _data: Out<u64>, count: Out<usize>,
    ) |driver| {
        driver.list_edges(graph, from, to, count)
    }
    fn cuGraphNodeGetType(node: Handle, kind: Out<u32>) |driver| {
        kind.set(driver.tables().node(node)?.kind as u32)
    }
    fn cuGraphNodeGetDependencies(node: Handle, nodes: Out<Handle>, count: Out<usize>) |driver| {
        let after = driver.tables().node(node)?.after.clone();
        driver.list(&after, nodes, count)
    }
    fn cuGraphNodeGetDependentNodes(node: Handle, nodes: Out<Handle>, count: Out<usize>) |driver| {
        let behind: Vec<_> = {
            let mut tables = driver.tables();
            tables.node(node)?;
            let all = tables.graphs.values().flat_map(|graph| &graph.nodes);
            let behind = all.filter(|(_, other)| other.after.contains(&node));
            behind.map(|(&handle, _)| handle).collect()
        };
        driver.list(&behind, nodes, count)
    }
    fn cuGraphDestroyNode(node: Handle) |driver| {
        let mut tables = driver.tables();
        tables.node(node)?;
        for graph in tables.graphs.values_mut() {
            graph.nodes.remove(&node);
            for other in graph.nodes.values_mut() {
                other.after.retain(|before| *before != node);
            }
        }
        Ok(())
    }
    fn cuGraphInstantiate_v2(
        executable: Out<Handle>, graph: Handle, node: Out<Handle>, _log: usize, _room: usize,
    ) |driver| {
        node.set_if_wanted(0);
        driver.instantiate(executable, graph, 0)
    }
    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) |driver| {
        driver.instantiate(executable, graph, flags)
    }
    fn cuGraphExecUpdate(
        executable: Handle, graph: Handle, node: Out<Handle>, result: Out<u32>,
    ) |driver| {
        let (number, place) = driver.update_executable(executable, graph)?;
        node.set_if_wanted(place);
        result.set(number)?;
        if number == 0 { Ok(()) } else { Err(REFUSED) }
    }
    fn cuGraphExecUpdate_v2(
        executable: Handle, graph: Handle, result: Out<UpdateResult>,
    ) |driver| {
        let (number, node) = driver.update_executable(executable, graph)?;
        result.set(UpdateResult { result: number, node, from: 0 })?;
        if number == 0 { Ok(()) } else { Err(REFUSED) }
    }
    fn cuGraphExecDestroy(executable: Handle) |driver| {
        driver.tables().executables.remove(&executable).map(drop).ok_or(INVALID_VALUE)
    }
    fn cuGraphExecGetFlags(executable: Handle, flags: Out<u64>) |driver| {
        driver.tables().flat(executable)?;
        flags.set(0)
    }
    ;
    fn cuGraphInstantiateWithParams / cuGraphInstantiateWithParams_ptsz(
        executable: Out<Handle>, graph: Handle, parameters: Out<InstantiateParams>,
    ) |driver, _null| {
        let mut answer = parameters.get()?;
        let made = driver.instantiate(executable, graph, answer.flags);
        answer.node = 0;
        // CUDA_GRAPH_INSTANTIATE_SUCCESS or …_ERROR.
        answer.result = u32::from(made.is_err());
        parameters.set(answer)?;
        made
    }
    fn cuGraphUpload / cuGraphUpload_ptsz(executable: Handle, stream: Handle) |driver, null| {
        driver.tables().flat(executable)?;
        driver.stream(stream, null).map(drop)
    }
    fn cuGraphLaunch / cuGraphLaunch_ptsz(executable: Handle, stream: Handle) |driver, null| {
        driver.submit_graph(driver.stream(stream, null)?, executable).map(drop)
    }
}
