package channel

import (
	"bytes"
	"encoding/xml"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func acceptRequests(n xml.Name) *schema {
	if op, ok := operations()[n.Local]; ok && n.Space == Namespace {
		return op.request
	}
	return nil
}

func wrap(header, body string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><e:Envelope xmlns:e="` + soapNS + `" xmlns="` + Namespace + `">` +
		header + `<e:Body>` + body + `</e:Body></e:Envelope>`
}

// TestAcceptedEnvelopes has forms that other SOAP stacks write.
func TestAcceptedEnvelopes(t *testing.T) {
	for name, s := range map[string]string{
		"plain":        wrap("", `<Status><JobId>x</JobId><LogOffset>7</LogOffset></Status>`),
		"white space":  "\n" + strings.TrimPrefix(wrap("\n <e:Header/>\n", "\n\t<Status> <JobId>x</JobId>\r\n<LogOffset> 7 </LogOffset></Status>\n"), `<?xml version="1.0" encoding="UTF-8"?>`),
		"no prolog":    strings.TrimPrefix(wrap("", `<Status><JobId>x</JobId><LogOffset>7</LogOffset></Status>`), `<?xml version="1.0" encoding="UTF-8"?>`),
		"prefixes":     wrap("", `<q:Status xmlns:q="`+Namespace+`" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><q:JobId>x</q:JobId><q:LogOffset>7</q:LogOffset></q:Status>`),
		"CDATA":        wrap("", `<Status><JobId><![CDATA[x]]></JobId><LogOffset>7</LogOffset></Status>`),
		"header block": wrap(`<e:Header><a:To xmlns:a="urn:a" e:mustUnderstand="0" x="y">z<a:b/></a:To></e:Header>`, `<Status><JobId>x</JobId><LogOffset>7</LogOffset></Status>`),
		"body in a header": wrap(`<e:Header><e:Body><Status><JobId>evil</JobId></Status></e:Body></e:Header>`,
			`<Status><JobId>x</JobId><LogOffset>7</LogOffset></Status>`),
	} {
		got, err := scanEnvelope([]byte(s), acceptRequests)
		require.NoError(t, err, name)
		require.Equal(t, "Status", got.Local)
		var req StatusRequest
		require.NoError(t, decodeBody([]byte(s), &req), name)
		require.Equal(t, StatusRequest{JobID: "x", LogOffset: 7}, req, name)
	}
}

func TestHostileXML(t *testing.T) {
	valid := `<Status><JobId>x</JobId></Status>`
	deep := func(open, close string, n int) string { return strings.Repeat(open, n) + strings.Repeat(close, n) }
	for name, test := range map[string]struct {
		raw  string
		code string
	}{
		"empty":              {"", soapSender},
		"not XML":            {"hello", soapSender},
		"DTD":                {`<!DOCTYPE x [<!ENTITY a "b">]>` + wrap("", valid), soapSender},
		"billion laughs":     {`<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>` + wrap("", `<Status><JobId>&b;</JobId></Status>`), soapSender},
		"unknown entity":     {wrap("", `<Status><JobId>&b;</JobId></Status>`), soapSender},
		"external entity":    {`<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>` + wrap("", `<Status><JobId>&a;</JobId></Status>`), soapSender},
		"PI":                 {wrap("", `<?php x?>`+valid), soapSender},
		"PI before":          {`<?xml version="1.0"?><?xml-stylesheet href="x"?>` + strings.TrimPrefix(wrap("", valid), `<?xml version="1.0" encoding="UTF-8"?>`), soapSender},
		"late declaration":   {wrap("", valid) + `<?xml version="1.0"?>`, soapSender},
		"XML 1.1":            {strings.Replace(wrap("", valid), `"1.0"`, `"1.1"`, 1), soapSender},
		"comment":            {wrap("", `<Status><JobId>x<!-- --></JobId></Status>`), soapSender},
		"Latin-1":            {strings.Replace(wrap("", valid), "UTF-8", "ISO-8859-1", 1), soapSender},
		"UTF-16":             {"\xfe\xff\x00<", soapSender},
		"not UTF-8":          {wrap("", "<Status><JobId>\xff</JobId></Status>"), soapSender},
		"control character":  {wrap("", "<Status><JobId>\x01</JobId></Status>"), soapSender},
		"SOAP 1.1":           {strings.Replace(wrap("", valid), soapNS, "http://schemas.xmlsoap.org/soap/envelope/", 1), soapVersionMismatch},
		"other root":         {`<x/>`, soapSender},
		"two roots":          {wrap("", valid) + wrap("", valid), soapSender},
		"text after":         {wrap("", valid) + "x", soapSender},
		"no body":            {`<e:Envelope xmlns:e="` + soapNS + `"/>`, soapSender},
		"empty body":         {wrap("", ""), soapSender},
		"two body children":  {wrap("", valid+valid), soapSender},
		"two bodies":         {strings.Replace(wrap("", valid), "</e:Envelope>", "<e:Body/></e:Envelope>", 1), soapSender},
		"two headers":        {wrap("<e:Header/><e:Header/>", valid), soapSender},
		"header after body":  {strings.Replace(wrap("", valid), "</e:Envelope>", "<e:Header/></e:Envelope>", 1), soapSender},
		"must understand":    {wrap(`<e:Header><x e:mustUnderstand="1"/></e:Header>`, valid), soapMustUnderstand},
		"must understand 2":  {wrap(`<e:Header><x e:mustUnderstand=" true "/></e:Header>`, valid), soapMustUnderstand},
		"WS-Security":        {wrap(`<e:Header><w:Security xmlns:w="urn:w" e:mustUnderstand="true"/></e:Header>`, valid), soapMustUnderstand},
		"unknown operation":  {wrap("", `<Shutdown/>`), soapSender},
		"other namespace":    {wrap("", `<Status xmlns="urn:other"><JobId>x</JobId></Status>`), soapSender},
		"no namespace":       {wrap("", `<Status xmlns=""><JobId>x</JobId></Status>`), soapSender},
		"unknown element":    {wrap("", `<Status><JobId>x</JobId><Extra/></Status>`), soapSender},
		"other child ns":     {wrap("", `<Status><JobId xmlns="urn:other">x</JobId></Status>`), soapSender},
		"element in text":    {wrap("", `<Status><JobId>x<b/></JobId></Status>`), soapSender},
		"text in element":    {wrap("", `<Status>x<JobId>x</JobId></Status>`), soapSender},
		"element twice":      {wrap("", `<Status><JobId>x</JobId><JobId>y</JobId></Status>`), soapSender},
		"attribute":          {wrap("", `<Status a="b"><JobId>x</JobId></Status>`), soapSender},
		"xsi:type":           {wrap("", `<Status xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="x"><JobId>x</JobId></Status>`), soapSender},
		"many attributes":    {wrap("", `<Status `+strings.Repeat(`xmlns:a="b" `, maxAttrs+1)+`><JobId>x</JobId></Status>`), soapSender},
		"a response":         {wrap("", `<StatusResponse/>`), soapSender},
		"unclosed":           {strings.TrimSuffix(wrap("", valid), "</e:Envelope>"), soapSender},
		"crossed":            {wrap("", `<Status><JobId></Status></JobId>`), soapSender},
		"deep header":        {wrap(`<e:Header>`+deep("<a>", "</a>", maxDepth)+`</e:Header>`, valid), soapSender},
		"100 000 deep":       {wrap(`<e:Header>`+deep("<a>", "</a>", 100_000)+`</e:Header>`, valid), soapSender},
		"100 000 deep, body": {wrap("", deep("<Status>", "</Status>", 100_000)), soapSender},
	} {
		_, err := scanEnvelope([]byte(test.raw), acceptRequests)
		require.ErrorIs(t, err, ErrMalformed, name)
		var ee *envelopeError
		require.ErrorAs(t, err, &ee, name)
		require.Equal(t, test.code, ee.soapCode, name)
	}
	for name, body := range map[string]string{
		"number": `<Status><JobId>x</JobId><LogOffset>7x</LogOffset></Status>`,
		"range":  `<Status><JobId>x</JobId><LogOffset>99999999999999999999</LogOffset></Status>`,
	} {
		raw := []byte(wrap("", body))
		_, err := scanEnvelope(raw, acceptRequests)
		require.NoError(t, err, name)
		require.ErrorIs(t, decodeBody(raw, new(StatusRequest)), ErrMalformed, name)
	}
}

// TestHostileXMLOverTheWire sends it as the authenticated manager, and looks at
// status and fault.
func TestHostileXMLOverTheWire(t *testing.T) {
	r := newRig(t, nil)
	seq := uint64(0)
	c := r.mustDialRaw()
	send := func(h http.Header, body string) (string, int, string) {
		seq++
		return c.send(c.signed(r.server.Epoch(), seq, "POST", soapPath, h, []byte(body)))
	}
	code, status, body := send(soapHeader(), wrap("", `<Nothing/>`))
	require.Equal(t, CodeBadRequest, code)
	require.Equal(t, 400, status)
	require.Contains(t, body, "<env:Value>env:Sender</env:Value>")
	require.Contains(t, body, `<AgentFault xmlns="`+Namespace+`"><Code>BadRequest</Code><Retryable>false</Retryable>`)
	code, status, body = send(soapHeader(), wrap(`<e:Header><x e:mustUnderstand="1"/></e:Header>`, `<ListJobs/>`))
	require.Equal(t, CodeBadRequest, code)
	require.Equal(t, 500, status)
	require.Contains(t, body, "env:MustUnderstand")
	code, status, _ = send(soapHeader(), wrap("", `<Status><JobId>../../etc/passwd</JobId></Status>`))
	require.Equal(t, CodeBadRequest, code)
	require.Equal(t, 400, status)
	for _, contentType := range []string{"text/xml; charset=utf-8", "", "application/soap+xml; charset=utf-16"} {
		code, _, _ = send(http.Header{"Content-Type": {contentType}}, wrap("", `<ListJobs/>`))
		require.Equal(t, CodeBadRequest, code, contentType)
	}
	code, status, _ = send(http.Header{"Content-Type": {`application/soap+xml; charset="UTF-8"; action="urn:whatever#Stop"`}}, wrap("", `<ListJobs/>`))
	require.Equal(t, 200, status, code)
	require.Equal(t, 1, r.agent.called("ListJobs"))
	require.Len(t, r.agent.calls, 1)

	// Refused by its length, before it is read.
	c = r.mustDialRaw()
	long := bytes.Replace(c.signed(r.server.Epoch(), 1, "POST", soapPath, soapHeader(), nil), []byte("Content-Length: 0"), []byte("Content-Length: 1048577"), 1)
	code, status, _ = c.send(long)
	require.Equal(t, CodeTooLarge, code)
	require.Equal(t, 400, status)
}

func TestFaultRoundTrip(t *testing.T) {
	f := &Fault{Code: "X<&>", Retryable: true, Message: "a\x01\xff<b>"}
	raw := encodeFault(soapReceiver, f)
	name, err := scanEnvelope(raw, func(n xml.Name) *schema {
		if n == (xml.Name{Space: soapNS, Local: "Fault"}) {
			return faultSchema()
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, "Fault", name.Local)
	var sf soapFault
	require.NoError(t, decodeBody(raw, &sf))
	require.Equal(t, "env:Receiver", sf.Code.Value)
	require.Equal(t, &agentFault{"X<&>", true, "a\uFFFD\uFFFD<b>"}, sf.Detail.AgentFault)
}

// TestDepthAllowsEveryMessage: the deepest message has room under the limit.
func TestDepthAllowsEveryMessage(t *testing.T) {
	var depth func(*schema) int
	depth = func(s *schema) int {
		d := 0
		for _, c := range s.children {
			d = max(d, depth(c))
		}
		return d + 1
	}
	for _, op := range operations() {
		require.LessOrEqual(t, 2+max(depth(op.request), depth(op.response)), maxDepth)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(wrap("", `<Status><JobId>x</JobId><LogOffset>7</LogOffset></Status>`)))
	f.Add([]byte(wrap(`<e:Header><a e:mustUnderstand="0">x</a></e:Header>`, `<Install><JobId>x</JobId><File><Name>a</Name></File><Arg/></Install>`)))
	f.Add([]byte(wrap("", `<q:Inventory xmlns:q="`+Namespace+`"><q:Probe><q:Arg>&lt;</q:Arg></q:Probe></q:Inventory>`)))
	f.Add(encodeFault(soapSender, &Fault{Code: "x"}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		name, err := scanEnvelope(raw, acceptRequests)
		if err != nil {
			return
		}
		for _, bad := range []string{"<!", "<?php"} {
			if i := bytes.Index(raw, []byte(bad)); i >= 0 && !bytes.HasPrefix(raw[i:], []byte("<![CDATA[")) && !bytes.Contains(raw, []byte("CDATA")) {
				t.Fatalf("accepted %q", raw)
			}
		}
		req := operations()[name.Local].newRequest()
		if decodeBody(raw, req) != nil {
			return
		}
		// What was accepted can be written and is then read as the same.
		again, err := encodeEnvelope(name.Local, req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := scanEnvelope(again, acceptRequests); err != nil {
			t.Fatalf("%v: %q", err, again)
		}
		req2 := operations()[name.Local].newRequest()
		if err := decodeBody(again, req2); err != nil || !reflect.DeepEqual(req, req2) {
			t.Fatalf("%v: %+v is not %+v", err, req2, req)
		}
	})
}
