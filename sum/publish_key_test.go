package sum_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/transporttest"
)

// TestOwnKeyIsWrittenNowhere: the key of a certificate that a session makes for its
// depot is in memory alone. It is neither in the journal of a session that died, nor
// in what that or the next one logs.
func TestOwnKeyIsWrittenNowhere(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	l := newLab(t, pull)
	l.ports[portalloc.SSLPort] = sum.TestPorts
	o := newOffers(l)
	var told transport.Published
	o.before = func(ctx context.Context, publish func(context.Context, transport.PublishRequest) (transport.Published, error)) error {
		var err error
		told, err = publish(ctx, transport.PublishRequest{File: transport.BytesFile("more.bin", []byte("more")), TLS: true})
		return err
	}
	c := l.component("7.0", 100_000)
	first := l.open()
	w := l.begin(l.nodes(first)[0], plan(t, l.nodes(first)[0], c, sum.PlanOptions{}), c, transporttest.Flash{})
	o.wait(1)
	cert, err := x509.ParseCertificate(told.Certificate)
	require.NoError(t, err)
	keys := first.OwnKeys()
	require.Len(t, keys, 1)
	require.True(t, keys[0].PublicKey.Equal(cert.PublicKey), "the key of what the device was told")
	// Somebody who comes from elsewhere, and is refused; that is logged, too.
	_, err = http.Get(strings.Replace(told.URL, "https:", "http:", 1))
	require.NoError(t, err)
	w.die(first)

	o.before = nil
	second := l.open()
	_, err = sum.Recover(t.Context(), l.nodes(second)[0], sum.DeployOptions{}, c)
	require.NoError(t, err)
	require.NoError(t, second.Close(t.Context()))

	seen := map[string][]byte{"the log": []byte(l.logs.String())}
	for _, dir := range []string{l.journal, os.TempDir()} {
		require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				seen[name], err = os.ReadFile(name)
			}
			return err
		}))
	}
	require.Contains(t, string(seen["the log"]), "level=DEBUG")
	require.Greater(t, len(seen), 1, "a journal")
	for form, text := range keyForms(t, keys[0]) {
		for where, content := range seen {
			require.False(t, bytes.Contains(content, text), "%s of the key is in %s", form, where)
		}
	}
}

// keyForms is a private key as it might be written.
func keyForms(t *testing.T, key *rsa.PrivateKey) map[string][]byte {
	t.Helper()
	forms := map[string][]byte{}
	add := func(name string, b []byte) {
		forms[name] = b
		forms[name+" in hex"] = []byte(hex.EncodeToString(b))
		for shift := range 3 { // whatever is in front of it
			text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), b...))
			// In two places, for PEM has lines of 64.
			forms[fmt.Sprintf("%s in base64, %d", name, shift)] = []byte(text[4:36])
			forms[fmt.Sprintf("%s in base64, %d, later", name, shift)] = []byte(text[40:72])
		}
	}
	add("the exponent", key.D.Bytes())
	add("a prime", key.Primes[0].Bytes())
	add("the other prime", key.Primes[1].Bytes())
	forms["the exponent as a number"] = []byte(key.D.String())
	forms["a prime as a number"] = []byte(key.Primes[0].String())
	return forms
}
