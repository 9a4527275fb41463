package main

import (
	"context"

	"kernelgw/contents"
	"kernelgw/kernelgw/kernels"
)

// notebooks lets kernels save outputs in the notebooks of their workspaces.
type notebooks struct{ files *contents.Handlers }

// SaveOutputs implements kernels.Notebooks.
func (n notebooks) SaveOutputs(ctx context.Context, o kernels.NotebookOutputs) (kernels.SavedOutputs, error) {
	request := contents.OutputsRequest{Replaces: o.Replaces, Own: o.Own}
	for _, c := range o.Cells {
		cell := contents.CellOutputs{ID: c.Cell, SourceSHA256: c.SourceSHA256, ExecutionCount: c.ExecutionCount, Seen: c.Seen, Outputs: c.Outputs}
		if !c.Running {
			cell.Ended = o.At.Add(-c.EndedAgo)
		}
		request.Cells = append(request.Cells, cell)
	}
	saved, err := n.files.SaveOutputs(ctx, contents.At{Workspace: o.Workspace, Path: o.Path, Owner: o.Owner}, request)
	return kernels.SavedOutputs{Cells: saved.Cells, Version: saved.Version}, err
}
