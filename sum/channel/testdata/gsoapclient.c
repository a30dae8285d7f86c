/* A client that gSOAP made from agent.wsdl; the test compiles and runs it.
   Arguments: endpoint, PEM file with certificate and key, PEM file with the
   authority, identifier of a job, identifier of a job that does not exist.
   It prints one line for each fact that the test looks for. */

#include "soapH.h"
#include "Agent.nsmap"
#include <stdio.h>
#include <string.h>

static int fail(struct soap *soap, const char *what)
{
    fprintf(stderr, "%s: ", what);
    soap_print_fault(soap, stderr);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    soap_ssl_init();
    struct soap *soap = soap_new1(SOAP_C_UTFSTRING | SOAP_IO_KEEPALIVE);
    soap->connect_timeout = soap->recv_timeout = soap->send_timeout = 30;
    /* The name in the certificate is not that of the host: trust comes from the authority. */
    if (soap_ssl_client_context(soap, SOAP_TLSv1_3 | SOAP_SSL_REQUIRE_SERVER_AUTHENTICATION | SOAP_SSL_SKIP_HOST_CHECK,
                                argv[2], "", argv[3], NULL, NULL))
        return fail(soap, "context");

    struct _ns1__Inventory inv;
    struct _ns1__InventoryResponse host;
    memset(&inv, 0, sizeof inv);
    enum xsd__boolean deep = xsd__boolean__true_;
    inv.Deep = &deep;
    if (soap_call___ns1__Inventory(soap, argv[1], NULL, &inv, &host))
        return fail(soap, "Inventory");
    printf("host %s\nproduct %s\ndevices %d\ndevice %s\nids %d\ntime %ld\n", host.HostName, host.Product, host.__sizeDevice,
           host.Device[0].Name, host.Device[0].__sizeHardwareID, (long)host.AgentTime);

    struct _ns1__Status st;
    struct ns1__JobStatus job;
    memset(&st, 0, sizeof st);
    LONG64 offset = 5;
    st.JobId = argv[4];
    st.LogOffset = &offset;
    if (soap_call___ns1__Status(soap, argv[1], NULL, &st, &job))
        return fail(soap, "Status");
    printf("state %d\nlog %d bytes\nnext %ld\n", job.State == ns1__JobState__Accepted, job.Log.__size, (long)*job.NextLogOffset);

    st.JobId = argv[5];
    if (!soap_call___ns1__Status(soap, argv[1], NULL, &st, &job))
        return fail(soap, "an unknown job was found");
    if (!soap->fault || !soap->fault->SOAP_ENV__Detail || !soap->fault->SOAP_ENV__Detail->ns1__AgentFault)
        return fail(soap, "the fault has no typed detail");
    struct _ns1__AgentFault *f = soap->fault->SOAP_ENV__Detail->ns1__AgentFault;
    printf("fault %s retryable %d: %s\n", f->Code, f->Retryable, f->Message);

    /* What needs message authentication is refused. */
    struct _ns1__Stop stop;
    struct _ns1__StopResponse stopped;
    memset(&stop, 0, sizeof stop);
    if (!soap_call___ns1__Stop(soap, argv[1], NULL, &stop, &stopped))
        return fail(soap, "Stop was executed");
    if (!soap->fault || !soap->fault->SOAP_ENV__Detail || !soap->fault->SOAP_ENV__Detail->ns1__AgentFault)
        return fail(soap, "the refusal has no typed detail");
    printf("stop %s\n", soap->fault->SOAP_ENV__Detail->ns1__AgentFault->Code);

    soap_destroy(soap);
    soap_end(soap);
    soap_free(soap);
    return 0;
}
