package channel

import (
	_ "embed"
	"encoding/xml"
	"regexp"
	"strings"
)

//go:embed agent.wsdl
var wsdl string

// wsdlAddress stands in agent.wsdl where the address goes.
const wsdlAddress = "https://agent.roundsman.internal:62286/soap"

var hostPattern = regexp.MustCompile(`^(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$`)

// WSDL returns the description of the SOAP operations (WSDL 1.1 with the SOAP
// 1.2 binding), as a server gives it at /soap?wsdl but for its address.
func WSDL() string { return wsdl }

// wsdlFor puts the address in that the client used.
func wsdlFor(host string) []byte {
	if !hostPattern.MatchString(host) {
		return []byte(wsdl)
	}
	var b strings.Builder
	xml.EscapeText(&b, []byte("https://"+host+soapPath))
	return []byte(strings.Replace(wsdl, wsdlAddress, b.String(), 1))
}
