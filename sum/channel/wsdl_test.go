package channel

import (
	"encoding/xml"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The parts of a WSDL that the test compares with the Go types.
type (
	wsdlElement struct {
		Name      string       `xml:"name,attr"`
		Type      string       `xml:"type,attr"`
		MinOccurs string       `xml:"minOccurs,attr"`
		MaxOccurs string       `xml:"maxOccurs,attr"`
		Complex   *wsdlComplex `xml:"http://www.w3.org/2001/XMLSchema complexType"`
	}
	wsdlComplex struct {
		Name     string        `xml:"name,attr"`
		Elements []wsdlElement `xml:"http://www.w3.org/2001/XMLSchema sequence>element"`
	}
	wsdlOperation struct {
		Name string `xml:"name,attr"`
	}
	wsdlDocument struct {
		Target string `xml:"targetNamespace,attr"`
		Schema struct {
			Form     string        `xml:"elementFormDefault,attr"`
			Elements []wsdlElement `xml:"http://www.w3.org/2001/XMLSchema element"`
			Complex  []wsdlComplex `xml:"http://www.w3.org/2001/XMLSchema complexType"`
		} `xml:"types>schema"`
		PortType []wsdlOperation `xml:"portType>operation"`
		Binding  []wsdlOperation `xml:"binding>operation"`
		Address  struct {
			Location string `xml:"location,attr"`
		} `xml:"service>port>address"`
	}
)

// TestWSDLMatchesTheTypes holds the checked-in document and the Go structs
// together: names, order, types, how often.
func TestWSDLMatchesTheTypes(t *testing.T) {
	var doc wsdlDocument
	require.NoError(t, xml.Unmarshal([]byte(WSDL()), &doc))
	require.Equal(t, Namespace, doc.Target)
	require.Equal(t, "qualified", doc.Schema.Form)
	require.Equal(t, wsdlAddress, doc.Address.Location)
	types := map[string]wsdlComplex{}
	for _, c := range doc.Schema.Complex {
		types[c.Name] = c
	}
	elements := map[string]wsdlElement{}
	for _, e := range doc.Schema.Elements {
		elements[e.Name] = e
	}
	content := func(e wsdlElement) []wsdlElement {
		if e.Complex != nil {
			return e.Complex.Elements
		}
		c, ok := types[strings.TrimPrefix(e.Type, "tns:")]
		require.True(t, ok, "type of element %s", e.Name)
		return c.Elements
	}
	var compare func(where string, elements []wsdlElement, goType reflect.Type)
	compare = func(where string, elements []wsdlElement, goType reflect.Type) {
		require.Len(t, elements, goType.NumField(), where)
		for i, el := range elements {
			f := goType.Field(i)
			where := where + "." + el.Name
			name, options, _ := strings.Cut(f.Tag.Get("xml"), ",")
			require.Equal(t, el.Name, name, where)
			ft := f.Type
			repeated := ft.Kind() == reflect.Slice && ft != reflect.TypeFor[Base64]()
			require.Equal(t, repeated, el.MaxOccurs == "unbounded", where)
			if !repeated {
				require.Equal(t, options == "omitempty", el.MinOccurs == "0", where)
			} else {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			var want string
			switch {
			case ft == reflect.TypeFor[time.Time]():
				want = "xs:dateTime"
			case ft == reflect.TypeFor[Base64]():
				want = "xs:base64Binary"
			case ft == reflect.TypeFor[JobState]():
				want = "tns:JobState"
			case ft.Kind() == reflect.Struct:
				want = "tns:" + ft.Name()
				compare(where, types[ft.Name()].Elements, ft)
			default:
				want = map[reflect.Kind]string{reflect.String: "xs:string", reflect.Bool: "xs:boolean", reflect.Int: "xs:int",
					reflect.Int64: "xs:long", reflect.Uint32: "xs:unsignedInt"}[ft.Kind()]
			}
			require.Equal(t, want, el.Type, where)
		}
	}
	handler := reflect.TypeFor[Handler]()
	require.Len(t, doc.PortType, handler.NumMethod())
	require.Len(t, operations(), handler.NumMethod())
	require.Equal(t, doc.PortType, doc.Binding)
	for _, op := range doc.PortType {
		m, ok := handler.MethodByName(op.Name)
		require.True(t, ok, op.Name)
		compare(op.Name, content(elements[op.Name]), m.Type.In(1).Elem())
		compare(op.Name+"Response", content(elements[op.Name+"Response"]), m.Type.Out(0).Elem())
	}
	compare("AgentFault", content(elements["AgentFault"]), reflect.TypeFor[agentFault]())
	require.Len(t, elements, 2*handler.NumMethod()+1)
}

func TestWSDLAddress(t *testing.T) {
	for host, want := range map[string]string{
		"web-01:62286":        "https://web-01:62286/soap",
		"[2001:db8::1]:62287": "https://[2001:db8::1]:62287/soap",
		`x"/><evil a="`:       wsdlAddress,
		"[fe80::1%25eth0]":    wsdlAddress,
		"":                    wsdlAddress,
	} {
		var doc wsdlDocument
		require.NoError(t, xml.Unmarshal(wsdlFor(host), &doc), host)
		require.Equal(t, want, doc.Address.Location, host)
	}
}
