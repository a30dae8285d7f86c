package firewall

import (
	"testing"

	"github.com/google/nftables/userdata"
	"github.com/stretchr/testify/require"
)

func TestRuleComment(t *testing.T) {
	other := userdata.Append(nil, 7, []byte("x"))
	require.Equal(t, "mine", ruleComment(userdata.AppendString(other, userdata.TypeComment, "mine")))
	require.Empty(t, ruleComment(other))
	require.Empty(t, ruleComment([]byte{0}))
	require.Empty(t, ruleComment([]byte{0, 5, 'a'}), "cut off")
}

// FuzzDecodeRule: whatever a rule of somebody else is, reading it does not panic.
func FuzzDecodeRule(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0c\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x07\x08\x00\x07\x00\x00\x02x\x00"))
	f.Add([]byte("\x28\x00\x04\x80\x24\x00\x01\x80\x0e\x00\x01\x00immediate\x00\x00\x00\x10\x00\x02\x80\x0c\x00\x02\x80\x08\x00\x02\x80\x00\x00\x00\x00"))
	f.Add([]byte("\b\x00\a\x000000")) // user data of no length that it has
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeRule(b)
	})
}
