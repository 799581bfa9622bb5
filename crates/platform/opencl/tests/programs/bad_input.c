/* Calls that are refused, commands behind events that fail, releases in odd orders: prints what comes
 * of each. Nothing that the driver or the loader itself does not survive. */
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#define _GNU_SOURCE
#include <CL/cl.h>
#include <CL/cl_ext.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SAY(call) printf("%s: %d\n", #call, (int)(call))

static cl_int last;
#define SAY_MADE(call)                                                          \
    do {                                                                        \
        last = 1000;                                                            \
        int made = (call) != NULL;                                              \
        printf("%s: made %d, error %d\n", #call, made, (int)last);              \
    } while (0)

static void CL_CALLBACK on_event(cl_event event, cl_int status, void *data) {
    (void)event, (void)status, (void)data;
}

static cl_int status(cl_event event) {
    cl_int status = 1000;
    clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
    return status;
}

static cl_platform_id platform;
static cl_device_id device;

static void refused_calls(cl_context context, cl_command_queue queue, cl_mem buffer) {
    cl_uint word = 7;
    size_t one = 1;
    cl_event none = NULL, event = NULL;
    SAY(clEnqueueNDRangeKernel(NULL, NULL, 1, NULL, &one, NULL, 0, NULL, NULL));
    SAY(clEnqueueFillBuffer(queue, NULL, &word, 4, 0, 4, 0, NULL, NULL));
    SAY(clEnqueueFillBuffer(queue, buffer, &word, 3, 0, 4, 0, NULL, NULL));
    SAY(clEnqueueFillBuffer(queue, buffer, &word, 4, 0, 4, 1, NULL, NULL));
    SAY(clEnqueueFillBuffer(queue, buffer, &word, 4, 0, 4, 1, &none, NULL));
    SAY(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 64, 4, &word, 0, NULL, NULL));
    SAY(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 4, NULL, 0, NULL, NULL));
    SAY(clEnqueueWriteBuffer(NULL, buffer, CL_TRUE, 0, 4, &word, 0, NULL, NULL));
    SAY_MADE(clEnqueueMapBuffer(queue, NULL, CL_TRUE, CL_MAP_READ, 0, 4, 0, NULL, NULL, &last));
    SAY(clEnqueueUnmapMemObject(queue, NULL, &word, 0, NULL, NULL));
    SAY(clEnqueueMarkerWithWaitList(queue, 1, &none, NULL));
    SAY(clEnqueueMarker(queue, NULL));
    SAY(clEnqueueBarrierWithWaitList(NULL, 0, NULL, NULL));
    SAY(clFinish(NULL));
    SAY(clFlush(NULL));
    SAY(clWaitForEvents(0, NULL));
    SAY(clWaitForEvents(1, &none));
    SAY(clSetUserEventStatus(NULL, CL_COMPLETE));
    SAY(clSetEventCallback(NULL, CL_COMPLETE, on_event, NULL));
    SAY(clRetainCommandQueue(NULL));
    SAY(clReleaseCommandQueue(NULL));
    SAY(clReleaseContext(NULL));
    SAY(clReleaseMemObject(NULL));
    SAY(clReleaseKernel(NULL));
    SAY(clReleaseProgram(NULL));
    SAY(clReleaseSampler(NULL));
    SAY(clReleaseDevice(NULL));
    SAY_MADE(clCreateCommandQueue(NULL, device, 0, &last));
    SAY_MADE(clCreateCommandQueue(context, NULL, 0, &last));
    SAY_MADE(clCreateCommandQueue(context, device, 1 << 30, &last));
    SAY_MADE(clCreateCommandQueueWithProperties(context, NULL, NULL, &last));
    SAY_MADE(clCreateUserEvent(NULL, &last));
    SAY_MADE(clGetExtensionFunctionAddressForPlatform(platform, "clNoSuchFunction"));
    SAY_MADE(clGetExtensionFunctionAddressForPlatform(NULL, "clEnqueueCommandBufferKHR"));

    SAY(clEnqueueFillBuffer(queue, buffer, &word, 4, 0, 4, 0, NULL, &event));
    SAY(clSetEventCallback(event, CL_COMPLETE, NULL, NULL));
    SAY(clSetEventCallback(event, 17, on_event, NULL));
    SAY(clSetUserEventStatus(event, CL_COMPLETE));
    SAY(clWaitForEvents(1, &event));
    SAY(clReleaseEvent(event));

#define FIND(name) \
    name##_fn name = (name##_fn)clGetExtensionFunctionAddressForPlatform(platform, #name)
    FIND(clCreateCommandBufferKHR);
    FIND(clEnqueueCommandBufferKHR);
    FIND(clRetainCommandBufferKHR);
    FIND(clReleaseCommandBufferKHR);
    SAY_MADE(clCreateCommandBufferKHR(0, NULL, NULL, &last));
    SAY(clEnqueueCommandBufferKHR(0, NULL, NULL, 0, NULL, NULL));
    SAY(clEnqueueCommandBufferKHR(1, &queue, NULL, 0, NULL, NULL));
    SAY(clRetainCommandBufferKHR(NULL));
    SAY(clReleaseCommandBufferKHR(NULL));
    cl_command_buffer_khr recording = clCreateCommandBufferKHR(1, &queue, NULL, &last);
    SAY(last);
    SAY(clEnqueueCommandBufferKHR(0, NULL, recording, 0, NULL, NULL));
    SAY(clReleaseCommandBufferKHR(recording));
}

/* Waits until the shim schedules the queue, if there is one that does. */
static void until_scheduled(cl_command_queue queue) {
    int (*level)(cl_command_queue) =
        (int (*)(cl_command_queue))dlsym(RTLD_DEFAULT, "xsched_opencl_level");
    for (int tries = 0; level && !getenv("XSCHED_DISABLE") && tries < 30000 && !level(queue); tries++)
        usleep(1000);
}

enum { BEHIND = 20 };

/* A start signal that never succeeds, for several queues and what stands behind in them. */
static void failing_events(cl_context context, cl_command_queue_properties properties) {
    cl_command_queue first = clCreateCommandQueue(context, device, properties, &last);
    cl_command_queue second = clCreateCommandQueue(context, device, properties, &last);
    cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, 64, NULL, &last);
    cl_uint zero = 0, word = 7;
    cl_event start = clCreateUserEvent(context, &last), one, two, behind[BEHIND];
    SAY(clEnqueueFillBuffer(first, buffer, &zero, 4, 0, 4, 0, NULL, NULL));
    SAY(clFinish(first));
    until_scheduled(first);
    SAY(clEnqueueFillBuffer(first, buffer, &word, 4, 0, 4, 1, &start, &one));
    for (int i = 0; i < BEHIND; i++)
        SAY(clEnqueueFillBuffer(first, buffer, &word, 4, 12, 4, 0, NULL, &behind[i]));
    SAY(clEnqueueFillBuffer(second, buffer, &word, 4, 4, 4, 1, &one, &two));
    SAY(clFlush(first));
    SAY(clFlush(second));
    SAY(clSetUserEventStatus(start, 5));
    SAY(clSetUserEventStatus(start, -5));
    SAY(clSetUserEventStatus(start, CL_COMPLETE));
    SAY(clWaitForEvents(1, &one));
    SAY(clWaitForEvents(1, &two));
    SAY(status(start));
    SAY(status(one) < 0);
    SAY(status(two) < 0);
    SAY(clFinish(second));
    for (int i = 0; i < BEHIND; i++) {
        SAY(clWaitForEvents(1, &behind[i]));
        SAY(status(behind[i]) < 0);
        SAY(clReleaseEvent(behind[i]));
    }
    /* Both queues go on. */
    SAY(clEnqueueFillBuffer(first, buffer, &zero, 4, 8, 4, 0, NULL, NULL));
    SAY(clEnqueueReadBuffer(first, buffer, CL_TRUE, 0, 4, &word, 0, NULL, NULL));
    SAY(word);
    SAY(clEnqueueReadBuffer(second, buffer, CL_TRUE, 8, 4, &word, 0, NULL, NULL));
    SAY(word);
    SAY(clReleaseEvent(one));
    SAY(clReleaseEvent(two));
    SAY(clReleaseEvent(start));
    SAY(clReleaseMemObject(buffer));
    SAY(clReleaseCommandQueue(first));
    SAY(clReleaseCommandQueue(second));
}

/* Everything is released before what uses it. */
static void odd_orders(void) {
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &last);
    cl_command_queue queue = clCreateCommandQueue(context, device, 0, &last);
    SAY(clReleaseContext(context));
    cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, 64, NULL, &last);
    SAY(last);
    cl_uint word = 9;
    cl_event start = clCreateUserEvent(context, &last), event;
    SAY(clEnqueueFillBuffer(queue, buffer, &word, 4, 0, 4, 1, &start, &event));
    SAY(clFlush(queue));
    SAY(clRetainCommandQueue(queue));
    SAY(clReleaseCommandQueue(queue));
    SAY(clSetUserEventStatus(start, CL_COMPLETE));
    SAY(clReleaseEvent(start));
    SAY(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 4, &word, 0, NULL, NULL));
    SAY(word);
    SAY(clReleaseMemObject(buffer));
    SAY(clReleaseCommandQueue(queue));
    SAY(clWaitForEvents(1, &event));
    SAY(clReleaseEvent(event));
}

int main(void) {
    cl_uint count = 0;
    SAY(clGetPlatformIDs(1, &platform, &count));
    if (count == 0)
        return 0;
    SAY(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ACCELERATOR, 1, &device, NULL));
    SAY(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, &count));
    SAY(count > 0);
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &last);
    SAY(last);
    if (!context)
        return 0;
    cl_command_queue queue = clCreateCommandQueue(context, device, 0, &last);
    cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, 64, NULL, &last);
    refused_calls(context, queue, buffer);
    failing_events(context, 0);
    failing_events(context, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
    odd_orders();
    SAY(clReleaseMemObject(buffer));
    SAY(clReleaseCommandQueue(queue));
    SAY(clReleaseContext(context));
    return 0;
}
