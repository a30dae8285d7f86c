package sum_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/sum"
)

// TestNodeIsAPlace: an address, and not a name, is what makes a node.
func TestNodeIsAPlace(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	x := sum.Target{Name: "x", Kind: sum.Linux, Address: "10.0.0.1"}
	a, err := s.Node(x)
	require.NoError(t, err)
	again, err := s.Node(x)
	require.NoError(t, err)
	require.Same(t, a, again)

	elsewhere := x
	elsewhere.Address = "10.0.0.2"
	b, err := s.Node(elsewhere)
	require.NoError(t, err)
	require.NotSame(t, a, b)
	require.Equal(t, elsewhere, b.Target())

	// Two names or users at one place would get into each other's way.
	for _, double := range []sum.Target{
		{Name: "y", Kind: sum.Linux, Address: "10.0.0.1"},
		{Name: "x", Kind: sum.Linux, Address: "10.0.0.1", User: "ops"},
	} {
		_, err = s.Node(double)
		require.ErrorIs(t, err, sum.ErrInvalid)
	}
	l.clean(s)
}

// TestNodeKind: kinds are known in any case, and no others are.
func TestNodeKind(t *testing.T) {
	t.Parallel()
	l := newLab(t, server)
	s := l.open()
	n, err := s.Node(sum.Target{Name: "k", Kind: "Linux", Address: "10.0.0.3"})
	require.NoError(t, err)
	require.Equal(t, sum.Linux, n.Target().Kind)
	require.True(t, n.Target().Kind.IsServer())
	same, err := s.Node(sum.Target{Name: "k", Kind: sum.Linux, Address: "10.0.0.3"})
	require.NoError(t, err)
	require.Same(t, n, same)
	_, err = s.Node(sum.Target{Kind: "toaster", Address: "10.0.0.4"})
	require.ErrorIs(t, err, sum.ErrInvalid)
	l.clean(s)
}
