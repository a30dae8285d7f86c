package agent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum/channel"
	"github.com/roundsman-go/roundsman/transport"
)

// A probe that finds nothing installed leaves a note of what it did; one that gives
// no answer leaves a problem, and one that tells a version that.
func TestProbeNotes(t *testing.T) {
	zero, three := 0, 3
	inv := inventoryFromWire(&channel.InventoryResponse{
		Results: []channel.ProbeResult{
			{Name: "missing"},
			{Name: "fails", ExitCode: &three, Output: "\n  no such thing \nmore\n"},
			{Name: "silent", ExitCode: &zero, Output: " \n"},
			{Name: "there", ExitCode: &zero, Output: "\n1.0 \n"},
			{Name: "killed"},
		},
		Problems: []channel.Problem{{Part: ProbePart("killed"), Text: "it was ended by a signal"}},
	})
	require.Equal(t, []transport.Problem{
		{Part: ProbePart("missing"), Text: "its program was not found"},
		{Part: ProbePart("fails"), Text: `it ended with exit status 3 and printed "no such thing"`},
		{Part: ProbePart("silent"), Text: "it ended with exit status 0 and printed nothing"},
	}, inv.Notes)
	require.Equal(t, []transport.Software{{Name: "there", Version: "1.0", Source: ProbeSource}}, inv.Software)
	require.Len(t, inv.Problems, 1)
}
