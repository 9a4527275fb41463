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
	saved, err := n.files.SaveOutputs(ctx, notebookOf(o), contents.OutputsRequest{Cells: cellsOf(o), Replaces: o.Replaces, Own: o.Own})
	return kernels.SavedOutputs{Cells: saved.Cells, Version: saved.Version}, err
}

// FindCells implements kernels.Notebooks.
func (n notebooks) FindCells(ctx context.Context, o kernels.NotebookOutputs) (map[string]bool, error) {
	return n.files.FindCells(ctx, notebookOf(o), cellsOf(o))
}

func notebookOf(o kernels.NotebookOutputs) contents.At {
	return contents.At{Workspace: o.Workspace, Path: o.Path, Owner: o.Owner}
}

func cellsOf(o kernels.NotebookOutputs) (cells []contents.CellOutputs) {
	for _, c := range o.Cells {
		cell := contents.CellOutputs{ID: c.Cell, SourceSHA256: c.SourceSHA256, ExecutionCount: c.ExecutionCount, Seen: c.Seen, Outputs: c.Outputs}
		if !c.Running {
			cell.Ended = o.At.Add(-c.EndedAgo)
		}
		cells = append(cells, cell)
	}
	return cells
}
