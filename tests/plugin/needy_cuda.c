/* needy_cuda.c: a plug-in that cannot be loaded, since a library it needs is not installed. */
int cublas_of_tests(void);
int kvrun_needy(void);
int kvrun_needy(void)
{
    return cublas_of_tests();
}
