/* wrong_cuda.c: a library with a plug-in's name that is none. */
int kvrun_wrong(void);
int kvrun_wrong(void)
{
    return 1;
}
